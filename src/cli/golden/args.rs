//! Where golden images come from, as `dvcr golden` and `dvcr controller` take it. `dvcr serve` has it among its settings.

use std::path::{Path, PathBuf};

use clap::Args;
use url::Url;

use crate::cli::Failure;
use crate::config::GoldenConfig;
use crate::controller::{Catalogue, Golden};

/// Which golden images there are.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_field_names, reason = "they are called as the flags are")]
pub(in crate::cli) struct GoldenArgs {
    /// A catalogue of golden images, in YAML [default: the one that comes with the program].
    #[arg(long, value_name = "FILE", env = "DVCR_GOLDEN_IMAGES")]
    golden_images: Option<PathBuf>,
    /// Where all files of the catalogue are, below the names of their hosts: URL/HOST/PATH.
    #[arg(long, value_name = "URL", env = "DVCR_GOLDEN_MIRROR")]
    golden_mirror: Option<Url>,
    /// Versions that are kept of an image [default: 3 by a server; as many as it keeps by a command].
    #[arg(long, value_name = "N", env = "DVCR_GOLDEN_KEEP", value_parser = clap::value_parser!(u64).range(1..))]
    golden_keep: Option<u64>,
}

/// Versions that a server keeps of an image, if nobody says how many.
const KEPT: u64 = 3;

impl GoldenArgs {
    /// For a server, which keeps versions from becoming too many.
    pub(in crate::cli) fn of_server(&self) -> Self {
        Self { golden_keep: self.golden_keep.or(Some(KEPT)), ..self.clone() }
    }
}

impl From<&GoldenConfig> for GoldenArgs {
    fn from(config: &GoldenConfig) -> Self {
        Self {
            golden_images: config.images.clone(),
            golden_mirror: config.mirror.clone(),
            golden_keep: Some(config.keep),
        }
    }
}

/// The golden images of an API server.
pub(in crate::cli) fn open(client: kube::Client, args: &GoldenArgs) -> Result<Golden, Failure> {
    let catalogue = match &args.golden_images {
        Some(path) => read(path)?,
        None => Catalogue::built_in()
            .map_err(|error| Failure::because("the catalogue of ours is none", &error))?,
    };
    let catalogue = match &args.golden_mirror {
        Some(mirror) => catalogue.mirrored(mirror),
        None => catalogue,
    };
    let keep = args.golden_keep.map(|keep| usize::try_from(keep).unwrap_or(usize::MAX));
    Ok(Golden::new(client, catalogue, keep))
}

fn read(path: &Path) -> Result<Catalogue, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    Catalogue::parse(&text).map_err(|error| wrong(&error))
}
