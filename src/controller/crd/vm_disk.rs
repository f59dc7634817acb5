//! `VMDisk`: a disk that a machine can have, as Cozystack and Hikube define it.

use kube::core::Rule;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HttpDataSource, ImageStatus};
use crate::apimachinery;

/// The API group of `VMDisk` and `VMInstance`.
pub const APPS_GROUP: &str = "apps.cozystack.io";

/// The only version of the group.
pub const APPS_VERSION: &str = "v1alpha1";

/// Describes a disk that a machine can have: from an image, from another disk, from an upload, or empty.
///
/// The disk is a persistent volume claim. An image that many disks are made from is fetched and stored once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "apps.cozystack.io",
    version = "v1alpha1",
    kind = "VMDisk",
    root = "VmDisk",
    plural = "vmdisks",
    singular = "vmdisk",
    category = "virtualization",
    namespaced,
    status = "ImageStatus",
    derive = "PartialEq",
    doc = "Describes a disk that a machine can have: from an image, from another disk, from an upload, or empty. The disk is a persistent volume claim. An image that many disks are made from is fetched and stored once.",
    annotation("dvcr.virtualization.deckhouse.io/kind-aliases", "VMDisks"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".status.capacity"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.storageClass"),
    printcolumn(name = "Optical", type_ = "boolean", json_path = ".spec.optical", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.madeFrom.name", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = 1),
    printcolumn(name = "TargetPVC", type_ = "string", json_path = ".status.target.persistentVolumeClaimName", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ready', 'PVCLost', 'Terminating']) || self.spec.source == oldSelf.spec.source")
        .message("The source cannot be changed once the disk is Ready. Create another VMDisk for other data.")
)]
#[serde(rename_all = "camelCase")]
pub struct VmDiskSpec {
    #[allow(missing_docs)]
    #[serde(default)]
    pub source: DiskSource,
    /// Whether machines see the disk as a CD-ROM.
    #[serde(default)]
    pub optical: bool,
    #[allow(missing_docs)]
    #[serde(default)]
    #[x_kube(validation = not_smaller())]
    pub storage: DiskSize,
    /// Name of the storage class: `replicated`, or `local` for disks of one node.
    #[serde(default = "replicated")]
    #[schemars(length(min = 1))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("The storage class cannot be changed: create another VMDisk with this one as its source."))]
    pub storage_class: String,
}

fn replicated() -> String {
    "replicated".to_owned()
}

fn not_smaller() -> Rule {
    Rule::new("quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0")
        .message("A disk cannot be made smaller: data behind its new end would be lost. Create a smaller VMDisk, and copy the data.")
}

/// The size of the disk, such as `20Gi`. It can grow later, and never shrink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DiskSize {
    /// Bytes.
    Bytes(u64),
    /// As Kubernetes writes quantities.
    Text(String),
    /// No size: a number that is none, say. One object that cannot be read would hide all others from whoever lists them.
    Other(serde_json::Value),
}

impl DiskSize {
    /// In bytes, unless it is no amount.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(*bytes),
            Self::Text(text) => apimachinery::Quantity::parse(text)?.bytes(),
            Self::Other(_) => None,
        }
    }
}

impl Default for DiskSize {
    fn default() -> Self {
        Self::Text("5Gi".to_owned())
    }
}

/// The schema of a quantity that is not negative.
pub(super) fn quantity_schema() -> schemars::Schema {
    schemars::json_schema!({
        "minimum": 0,
        "pattern": r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
        "x-kubernetes-int-or-string": true,
    })
}

impl JsonSchema for DiskSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DiskSize".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = quantity_schema();
        schema.insert(
            "description".to_owned(),
            "Size of the disk, such as `20Gi`. It can grow later, and never shrink.".into(),
        );
        schema
    }
}

/// What the disk is made from. Nothing: an empty disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.http), has(self.image), has(self.upload), has(self.disk), has(self.virtualImage), has(self.clusterVirtualImage)].filter(is, is).size() <= 1").message("Exactly one type of source is expected, or none for an empty disk: http, image, upload, disk, virtualImage or clusterVirtualImage."))]
pub struct DiskSource {
    /// A file on an HTTP or HTTPS server. All disks of one file share one import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpDataSource>,
    /// A golden image, such as `ubuntu-2404`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Named>,
    /// Data that the user uploads to the address in `status.imageUploadURLs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadedDisk>,
    /// Another `VMDisk` of the namespace, as it is when the copy is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Named>,
    /// A VirtualImage of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_image: Option<Named>,
    /// A ClusterVirtualImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_virtual_image: Option<Named>,
}

/// Something by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Named {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Data that the user uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct UploadedDisk {}
