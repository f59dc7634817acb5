//! The resources: `VirtualImage`, `ClusterVirtualImage`, `VMDisk` and `VMInstance`, as Rust types and as custom resource definitions.
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
mod vm_instance;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
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
pub use vm_disk::{APPS_GROUP, APPS_VERSION, DiskSize, DiskSource, Named, UploadedDisk, VmDisk, VmDiskSpec};
pub use vm_instance::{
    Amount, AttachedDisk, ExternalMethod, Resources, RunStrategy, VmInstance, VmInstanceSpec,
    VmInstanceStatus,
};

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
    vec![VirtualImage::crd(), ClusterVirtualImage::crd(), VmDisk::crd(), with_empty_spec(VmInstance::crd())]
}

/// Lets manifests leave the spec empty, as the first one of Hikube's reference does: each field has a default.
fn with_empty_spec(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(spec) = properties.and_then(|properties| properties.get_mut("spec")) {
            spec.default = Some(JSON(serde_json::json!({})));
        }
    }
    definition
}
