//! The resources: `VirtualImage`, `ClusterVirtualImage` and `VMDisk`, as Rust types and as custom resource definitions.
//!
//! Manifests written for Deckhouse and for Cozystack apply unchanged: group, version, fields, columns, phases and conditions are the
//! same. What Deckhouse leaves to a webhook is a CEL rule here, so that a plain API server enforces it. The
//! definitions in `deploy/crds/` and what the embedded API serves are both made of these types.

mod checksum;
mod cluster_virtual_image;
mod data_source;
mod status;
mod virtual_image;
mod vm_disk;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use checksum::ChecksumSpec;
pub use cluster_virtual_image::{
    ClusterContainerImage, ClusterDataSource, ClusterObjectRef, ClusterPullSecret, ClusterVirtualImage,
    ClusterVirtualImageSpec,
};
pub use data_source::{
    ContainerImage, DataSource, DataSourceType, HttpDataSource, ObjectRef, ObjectRefKind, PullSecret,
    UploadDataSource,
};
pub use status::{DownloadSpeed, ImageStatus, MadeFrom, Phase, Size, Target, UploadUrls};
pub use virtual_image::{PersistentVolumeClaimSpec, Storage, VirtualImage, VirtualImageSpec};
pub use vm_disk::{APPS_GROUP, DiskSize, DiskSource, NamedSource, UploadedDisk, VmDisk, VmDiskSpec};

/// The API group of images.
pub const GROUP: &str = "virtualization.deckhouse.io";

/// The only version of the group.
pub const VERSION: &str = "v1alpha2";

/// A definition as YAML, as `deploy/crds/` has it.
pub fn to_yaml(definition: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(definition)
}

/// The custom resource definitions, as `deploy/crds/` has them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![VirtualImage::crd(), ClusterVirtualImage::crd(), VmDisk::crd()]
}
