//! The settings below `golden`.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::value;

/// Which golden images there are, and how they are kept fresh.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GoldenConfig {
    /// A catalogue, in YAML; unset: the one that comes with the program.
    pub images: Option<PathBuf>,
    /// Where all files of the catalogue are, below the names of their hosts: `MIRROR/HOST/PATH`.
    #[serde(deserialize_with = "value::parsed")]
    pub mirror: Option<Url>,
    /// Seconds after which publishers are asked for new builds of the images that are there; 0: they are not.
    #[serde(deserialize_with = "value::number")]
    pub interval: u64,
    /// Versions that are kept of an image.
    #[serde(deserialize_with = "value::number")]
    pub keep: u64,
}

impl Default for GoldenConfig {
    fn default() -> Self {
        Self { images: None, mirror: None, interval: 24 * 60 * 60, keep: 3 }
    }
}

impl GoldenConfig {
    /// What makes no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.keep == 0 {
            return Err("golden.keep must be at least 1: without any version there is no image".to_owned());
        }
        Ok(())
    }
}
