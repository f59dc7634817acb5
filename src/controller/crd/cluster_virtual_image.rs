//! `ClusterVirtualImage`: an image for all namespaces.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::data_source::{IMAGE, container_image_alone, http_alone, object_ref_alone, upload_alone};
use super::{DataSourceType, HttpDataSource, ImageStatus, ObjectRefKind, UploadDataSource};

/// Describes a disk image that machines and disks of all namespaces are made from, or an installation image (iso).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "virtualization.deckhouse.io",
    version = "v1alpha2",
    kind = "ClusterVirtualImage",
    plural = "clustervirtualimages",
    singular = "clustervirtualimage",
    shortname = "cvi",
    category = "virtualization-cluster",
    status = "ImageStatus",
    derive = "PartialEq",
    doc = "Describes a disk image that machines and disks of all namespaces are made from, or an installation image (iso). The image is fetched from its source and stored in the registry. The spec can be changed until the image is Ready, which begins anew.",
    label("heritage", "deckhouse"),
    label("module", "virtualization"),
    label("backup.deckhouse.io/cluster-config", "true"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "CDROM", type_ = "boolean", json_path = ".status.cdrom"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "StoredSize", type_ = "string", json_path = ".status.size.stored", priority = 1),
    printcolumn(name = "UnpackedSize", type_ = "string", json_path = ".status.size.unpacked", priority = 1),
    printcolumn(name = "Registry URL", type_ = "string", json_path = ".status.target.registryURL", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ready', 'ImageLost', 'Terminating']) || self.spec == oldSelf.spec")
        .message("The spec cannot be changed once the image is Ready. Create another ClusterVirtualImage for other data.")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterVirtualImageSpec {
    #[allow(missing_docs)]
    pub data_source: ClusterDataSource,
}

/// A disk image in a container registry: an image with one file in the folder `/disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterContainerImage {
    /// Name of the image, for example `registry.example.com/images/slackware:15`.
    #[schemars(regex(pattern = IMAGE))]
    pub image: String,
    /// Secret with the registry's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secret: Option<ClusterPullSecret>,
    /// Further certificate authorities (PEM, in Base64) that the registry's certificate is checked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "byte"))]
    pub ca_bundle: Option<String>,
}

/// Secret with a registry's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ClusterPullSecret {
    /// Name of the secret, of type `kubernetes.io/dockerconfigjson`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// An existing resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.kind == 'VirtualImage' || self.kind == 'VirtualDisk' || self.kind == 'VirtualDiskSnapshot' ? has(self.__namespace__) && size(self.__namespace__) > 0 : true")
    .message("The namespace is required for VirtualDisk, VirtualImage and VirtualDiskSnapshot"))]
#[x_kube(validation = Rule::new("self.kind == 'VirtualImage' || self.kind == 'VirtualDisk' || self.kind == 'VirtualDiskSnapshot' ? has(self.__namespace__) && size(self.__namespace__) < 64 : true")
    .message("The namespace must be no longer than 63 characters."))]
pub struct ClusterObjectRef {
    /// Kind of the resource.
    pub kind: ObjectRefKind,
    /// Name of the resource.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Namespace of the resource, unless it is a ClusterVirtualImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = http_alone())]
#[x_kube(validation = container_image_alone())]
#[x_kube(validation = object_ref_alone())]
#[x_kube(validation = upload_alone())]
pub struct ClusterDataSource {
    #[allow(missing_docs)]
    #[serde(rename = "type")]
    pub kind: DataSourceType,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpDataSource>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_image: Option<ClusterContainerImage>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ClusterObjectRef>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadDataSource>,
}
