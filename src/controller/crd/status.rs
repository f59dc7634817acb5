//! What the controller says about an image.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of an image in a word; the conditions are the record:
///
/// * `Pending`: the image waits for what it is made from.
/// * `WaitForUserUpload`: the image waits for the user to upload it to an address in `imageUploadURLs`.
/// * `Provisioning`: the image is being made.
/// * `Ready`: the image can be used.
/// * `Failed`: the image cannot be made; the condition `Ready` says why.
/// * `Terminating`: the image is being deleted, or waits for those that use it.
/// * `ImageLost`: the image is no longer in the registry.
/// * `PVCLost`: the image's persistent volume claim is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    #[allow(missing_docs)]
    #[default]
    Pending,
    #[allow(missing_docs)]
    Provisioning,
    #[allow(missing_docs)]
    WaitForUserUpload,
    #[allow(missing_docs)]
    Ready,
    #[allow(missing_docs)]
    Failed,
    #[allow(missing_docs)]
    Terminating,
    #[allow(missing_docs)]
    ImageLost,
    #[allow(missing_docs)]
    #[serde(rename = "PVCLost")]
    PvcLost,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Provisioning,
        Self::WaitForUserUpload,
        Self::Ready,
        Self::Failed,
        Self::Terminating,
        Self::ImageLost,
        Self::PvcLost,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Provisioning => "Provisioning",
            Self::WaitForUserUpload => "WaitForUserUpload",
            Self::Ready => "Ready",
            Self::Failed => "Failed",
            Self::Terminating => "Terminating",
            Self::ImageLost => "ImageLost",
            Self::PvcLost => "PVCLost",
        }
    }
}

/// Sizes of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Size of the image's file in the registry, for people, such as `285.9Mi`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stored: String,
    /// Size of the image's file in the registry in bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stored_bytes: String,
    /// Size of the disk that a machine sees, for people, such as `2.5Gi`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unpacked: String,
    /// Size of the disk that a machine sees in bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unpacked_bytes: String,
}

/// How fast the source is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DownloadSpeed {
    /// On average, for people, such as `12.5Mi/s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub avg: String,
    /// On average, in bytes per second.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub avg_bytes: String,
    /// Now, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub current: String,
    /// Now, in bytes per second.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub current_bytes: String,
}

/// Where the image is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Name of the image in the registry, which a machine's `containerDisk` or `docker pull` takes.
    #[serde(default, rename = "registryURL", skip_serializing_if = "Option::is_none")]
    pub registry_url: Option<String>,
    /// Name of the persistent volume claim, if the image is kept in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim_name: Option<String>,
}

/// Where the user uploads the image, with PUT or POST: `curl --progress-bar -T FILE URL | cat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UploadUrls {
    /// From outside of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
    /// From inside of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_cluster: Option<String>,
}

/// The image that a disk was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MadeFrom {
    /// Kind of the resource: `VirtualImage` or `ClusterVirtualImage`.
    pub kind: String,
    /// Its namespace, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// What the controller says about the image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// How much of the image is there, such as `28.2%`; 100% only when it is `Ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Format of the image: `raw`, `qcow2`, `vmdk`, `vdi`, `vhd`, `vhdx` or `iso`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Whether the image is one for a CD-ROM drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<bool>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_speed: Option<DownloadSpeed>,
    #[allow(missing_docs)]
    #[serde(default, rename = "imageUploadURLs", skip_serializing_if = "Option::is_none")]
    pub image_upload_urls: Option<UploadUrls>,
    /// Deprecated, and no longer set: see `imageUploadURLs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_command: Option<String>,
    /// UID of the resource that the image was made from.
    #[serde(default, rename = "sourceUID", skip_serializing_if = "Option::is_none")]
    pub source_uid: Option<String>,
    /// The image that this was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<MadeFrom>,
    /// Digest of the manifest of the image in the registry; of a disk, of the image that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size of the disk that a machine sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// Name of the storage class of the image's persistent volume claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Namespaces in which the image is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_in_namespaces: Vec<String>,
    /// The record of the image's state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
