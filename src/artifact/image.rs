//! [`ImageDescription`]: the config and the manifest of a disk image.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::annotations::LABEL_COMPLETE_TAR;
use super::{Annotations, LABEL_FORMAT, LABEL_SIZE, LABEL_VIRTUAL_SIZE};
use crate::disk::Disk;
use crate::oci::{Algorithm, Digest, MediaType};

/// What an image says about its disk.
#[derive(Debug, Clone)]
pub struct ImageDescription {
    /// The disk.
    pub disk: Disk,
    /// Bytes of the file in the layer.
    pub file_size: u64,
    /// The machine that it is for, in Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// The layer, which is not compressed: its digest is its diff ID too.
    pub layer: Digest,
    /// Bytes of the layer.
    pub layer_size: u64,
    /// Where it comes from.
    pub annotations: Annotations,
    /// Further annotations of the manifest; they win over those made here.
    pub more_annotations: BTreeMap<String, String>,
    /// Further labels of the config; they win over those made here.
    pub more_labels: BTreeMap<String, String>,
    /// The instance type that KubeVirt proposes for the disk, through CDI's `KUBEVIRT_IO` environment.
    pub instancetype: Option<String>,
    /// The preference that KubeVirt proposes for the disk.
    pub preference: Option<String>,
}

/// The two documents of an image.
#[derive(Debug, Clone)]
pub struct WrittenImage {
    /// The config.
    pub config: Bytes,
    /// The manifest, which names the config and the layer.
    pub manifest: Bytes,
    /// The manifest's name.
    pub digest: Digest,
}

/// The config of an image, image specification "config.md"; fields in its order.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the specification's")]
struct Config<'a> {
    architecture: &'a str,
    os: &'static str,
    config: Execution<'a>,
    rootfs: RootFs<'a>,
    history: [History; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Execution<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    labels: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'static str,
    diff_ids: [&'a Digest; 1],
}

#[derive(Serialize)]
struct History {
    created_by: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageManifest<'a> {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor<'a>,
    layers: [Descriptor<'a>; 1],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'static str,
    digest: &'a Digest,
    size: u64,
}

impl ImageDescription {
    /// The documents. The same description always gives the same bytes.
    pub fn write(&self) -> Result<WrittenImage, serde_json::Error> {
        let config = Bytes::from(serde_json::to_vec(&self.config())?);
        let config_digest = Digest::of(Algorithm::Sha256, &config);
        let mut annotations: BTreeMap<_, _> = self.annotations.pairs().collect();
        annotations.extend(self.more_annotations.clone());
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: MediaType::IMAGE,
            config: Descriptor {
                media_type: MediaType::CONFIG,
                digest: &config_digest,
                size: config.len() as u64,
            },
            layers: [Descriptor { media_type: MediaType::LAYER, digest: &self.layer, size: self.layer_size }],
            annotations,
        };
        let manifest = Bytes::from(serde_json::to_vec(&manifest)?);
        Ok(WrittenImage { config, digest: Digest::of(Algorithm::Sha256, &manifest), manifest })
    }

    fn config(&self) -> Config<'_> {
        let mut labels = BTreeMap::from([
            (LABEL_SIZE, self.file_size.to_string()),
            (LABEL_VIRTUAL_SIZE, self.disk.virtual_size.to_string()),
            (LABEL_FORMAT, self.disk.format.to_string()),
            (LABEL_COMPLETE_TAR.0, LABEL_COMPLETE_TAR.1.to_owned()),
        ]);
        labels.extend(self.more_labels.iter().map(|(key, value)| (key.as_str(), value.clone())));
        let defaults = [
            ("INSTANCETYPE_KUBEVIRT_IO_DEFAULT_INSTANCETYPE", &self.instancetype),
            ("INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE", &self.preference),
        ];
        let env = defaults
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_deref()?)))
            .collect();
        Config {
            architecture: &self.architecture,
            os: "linux",
            config: Execution { env, labels },
            rootfs: RootFs { r#type: "layers", diff_ids: [&self.layer] },
            history: [History { created_by: "dvcr import" }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Format;
    use crate::oci::Manifest;

    fn description() -> ImageDescription {
        ImageDescription {
            disk: Disk { format: Format::Qcow2, virtual_size: 10 << 30 },
            file_size: 700,
            architecture: "amd64".to_owned(),
            layer: Digest::of(Algorithm::Sha256, b"layer"),
            layer_size: 2048,
            annotations: Annotations { title: Some("noble.img".to_owned()), ..Annotations::default() },
            more_annotations: BTreeMap::new(),
            more_labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
            instancetype: None,
            preference: Some("ubuntu".to_owned()),
        }
    }

    #[test]
    fn the_manifest_is_one_that_registries_take() {
        let written = description().write().unwrap();
        let manifest = Manifest::parse(&written.manifest, None).unwrap();
        assert_eq!(manifest.media_type.as_str(), MediaType::IMAGE);
        assert_eq!(manifest.blobs[0].digest, Digest::of(Algorithm::Sha256, &written.config));
        assert_eq!(manifest.blobs[0].size, written.config.len() as u64);
        assert_eq!(manifest.blobs[1].digest, description().layer);
        assert_eq!(manifest.annotations["org.opencontainers.image.title"], "noble.img");
    }

    #[test]
    fn the_config_says_what_the_disk_is() {
        let written = description().write().unwrap();
        let config: oci_spec::image::ImageConfiguration = serde_json::from_slice(&written.config).unwrap();
        assert_eq!(config.rootfs().diff_ids(), &[description().layer.to_string()]);
        let execution = config.config().as_ref().unwrap();
        let labels = execution.labels().as_ref().unwrap();
        assert_eq!(labels[LABEL_SIZE], "700");
        assert_eq!(labels[LABEL_VIRTUAL_SIZE], "10737418240");
        assert_eq!(labels[LABEL_FORMAT], "qcow2");
        assert_eq!(labels["team"], "a");
        let env = execution.env().as_ref().unwrap();
        assert_eq!(env, &["INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=ubuntu"]);
    }

    #[test]
    fn the_same_disk_is_written_the_same() {
        assert_eq!(description().write().unwrap().digest, description().write().unwrap().digest);
    }
}
