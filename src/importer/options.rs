//! [`ImportOptions`]: how a source is taken and how the image is described.

use std::collections::BTreeMap;

use super::Checksum;
use crate::artifact::{FileName, InvalidFileName};
use crate::disk::{Format, Limits};

/// How a source is taken and how the image is described.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What the source must hash to, all of them.
    pub checksums: Vec<Checksum>,
    /// What is too much.
    pub limits: Limits,
    /// The file's name in the layer; by default `disk.<format>`.
    pub file_name: Option<FileName>,
    /// The format that the disk is converted to, if it has another one or is compressed. Raw or qcow2.
    pub format: Option<Format>,
    /// The machine that the disk is for, in Go's words; by default that of a registry's image, or `amd64`.
    pub architecture: Option<String>,
    /// Further labels of the config.
    pub labels: BTreeMap<String, String>,
    /// Further annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Whether what the registry has of the disk in other images is not sent. It spares the network and costs the registry some
    /// work, so it is of no use to whoever is the registry.
    pub delta: bool,
    /// The instance type that KubeVirt proposes.
    pub instancetype: Option<String>,
    /// The preference that KubeVirt proposes.
    pub preference: Option<String>,
}

impl ImportOptions {
    /// The name of a disk's file.
    pub(super) fn file_name(&self, format: Format) -> Result<FileName, InvalidFileName> {
        match &self.file_name {
            Some(name) => Ok(name.clone()),
            None => format!("disk.{}", format.extension()).parse(),
        }
    }
}
