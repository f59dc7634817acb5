//! `VirtualImage`: an image of one namespace.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataSource, ImageStatus};

/// Describes a disk image that machines and disks of its namespace are made from, or an installation image (iso).
///
/// The image is fetched from its source and stored in the registry, or in a persistent volume claim. The spec can be
/// changed until the image is Ready, which begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "virtualization.deckhouse.io",
    version = "v1alpha2",
    kind = "VirtualImage",
    plural = "virtualimages",
    singular = "virtualimage",
    shortname = "vi",
    category = "virtualization",
    namespaced,
    status = "ImageStatus",
    derive = "PartialEq",
    doc = "Describes a disk image that machines and disks of its namespace are made from, or an installation image (iso). The image is fetched from its source and stored in the registry, or in a persistent volume claim. The spec can be changed until the image is Ready, which begins anew.",
    label("heritage", "deckhouse"),
    label("module", "virtualization"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "CDROM", type_ = "boolean", json_path = ".status.cdrom"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "StoredSize", type_ = "string", json_path = ".status.size.stored", priority = 1),
    printcolumn(name = "UnpackedSize", type_ = "string", json_path = ".status.size.unpacked", priority = 1),
    printcolumn(name = "Registry URL", type_ = "string", json_path = ".status.target.registryURL", priority = 1),
    printcolumn(name = "TargetPVC", type_ = "string", json_path = ".status.target.persistentVolumeClaimName", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ready', 'ImageLost', 'PVCLost', 'Terminating']) || self.spec == oldSelf.spec")
        .message("The spec cannot be changed once the image is Ready. Create another VirtualImage for other data.")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualImageSpec {
    /// Where the image is kept.
    ///
    /// * `ContainerRegistry`: in the registry.
    /// * `PersistentVolumeClaim`: in a persistent volume claim, for storage that clones volumes fast.
    /// * `Kubernetes`: deprecated, the same as `PersistentVolumeClaim`.
    #[serde(default)]
    pub storage: Storage,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSpec>,
    #[allow(missing_docs)]
    pub data_source: DataSource,
}

/// Where an image is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Storage {
    #[allow(missing_docs)]
    #[default]
    ContainerRegistry,
    #[allow(missing_docs)]
    Kubernetes,
    #[allow(missing_docs)]
    PersistentVolumeClaim,
}

impl Storage {
    /// Whether the image is kept in a persistent volume claim.
    #[must_use]
    pub fn is_claim(self) -> bool {
        !matches!(self, Self::ContainerRegistry)
    }
}

/// The persistent volume claim of an image that is kept in one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimSpec {
    /// Name of the storage class; the cluster's default class if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}
