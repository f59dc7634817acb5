//! Where an image comes from.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ChecksumSpec;

/// What a URL may look like.
pub(super) const URL: &str =
    r"^http[s]?:\/\/(?:[a-zA-Z]|[0-9]|[$-_@.&+]|[!*\(\),]|(?:%[0-9a-fA-F][0-9a-fA-F]))+$";

/// What the name of a container image may look like.
pub(super) const IMAGE: &str = r"^(?P<name>(?:(?P<domain>(?:(?:localhost|[\w-]+(?:\.[\w-]+)+)(?::\d+)?)|[\w]+:\d+)/)?(?P<image>[a-z0-9_.-]+(?:/[a-z0-9_.-]+)*))(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[+.-_][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$";

/// The union of sources: what belongs to the type, and nothing else.
pub(super) fn http_alone() -> Rule {
    Rule::new("self.type == 'HTTP' ? has(self.http) && !has(self.containerImage) && !has(self.objectRef) && !has(self.upload) : true")
        .message("HTTP requires http and cannot have ContainerImage, ObjectRef or Upload.")
}

/// See [`http_alone`].
pub(super) fn container_image_alone() -> Rule {
    Rule::new("self.type == 'ContainerImage' ? has(self.containerImage) && !has(self.http) && !has(self.objectRef) && !has(self.upload) : true")
        .message("ContainerImage requires containerImage and cannot have HTTP, ObjectRef or Upload.")
}

/// See [`http_alone`].
pub(super) fn object_ref_alone() -> Rule {
    Rule::new("self.type == 'ObjectRef' ? has(self.objectRef) && !has(self.http) && !has(self.containerImage) && !has(self.upload) : true")
        .message("ObjectRef requires objectRef and cannot have HTTP, ContainerImage or Upload.")
}

/// See [`http_alone`]; an upload may do without more.
pub(super) fn upload_alone() -> Rule {
    Rule::new(
        "self.type == 'Upload' ? !has(self.http) && !has(self.containerImage) && !has(self.objectRef) : true",
    )
    .message("Upload cannot have HTTP, ContainerImage or ObjectRef.")
}

/// The kind of source:
///
/// * `HTTP`: a file on an HTTP or HTTPS server.
/// * `ContainerImage`: a disk image in a container registry.
/// * `ObjectRef`: an existing resource.
/// * `Upload`: data that the user uploads to the address in `status.imageUploadURLs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DataSourceType {
    #[allow(missing_docs)]
    #[serde(rename = "HTTP")]
    Http,
    #[allow(missing_docs)]
    ContainerImage,
    #[allow(missing_docs)]
    ObjectRef,
    #[allow(missing_docs)]
    Upload,
}

/// A file on an HTTP or HTTPS server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpDataSource {
    /// URL of the file. Formats: qcow2, raw, vmdk, vdi, vhd, vhdx, iso; plain or compressed with gz, xz, zst or
    /// bz2. For example `https://mirror.example.com/images/slackware-15.qcow2.gz`.
    #[schemars(regex(pattern = URL))]
    pub url: String,
    /// Further certificate authorities (PEM, in Base64) that the server's certificate is checked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "byte"))]
    pub ca_bundle: Option<String>,
    /// Checksums of the file as it is received, before it is decompressed. The file must match all that are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<ChecksumSpec>,
}

/// A disk image in a container registry: an image with one file in the folder `/disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerImage {
    /// Name of the image, for example `registry.example.com/images/slackware:15`.
    #[schemars(regex(pattern = IMAGE))]
    pub image: String,
    /// Secret with the registry's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secret: Option<PullSecret>,
    /// Further certificate authorities (PEM, in Base64) that the registry's certificate is checked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "byte"))]
    pub ca_bundle: Option<String>,
}

/// Secret with a registry's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct PullSecret {
    /// Name of the secret, of type `kubernetes.io/dockerconfigjson`, in the namespace of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An existing resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ObjectRef {
    /// Kind of the resource.
    pub kind: ObjectRefKind,
    /// Name of the resource; namespaced ones are looked for in the namespace of the image.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// Kind of a resource that an image is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ObjectRefKind {
    #[allow(missing_docs)]
    ClusterVirtualImage,
    #[allow(missing_docs)]
    VirtualImage,
    #[allow(missing_docs)]
    VirtualDisk,
    #[allow(missing_docs)]
    VirtualDiskSnapshot,
}

impl ObjectRefKind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterVirtualImage => "ClusterVirtualImage",
            Self::VirtualImage => "VirtualImage",
            Self::VirtualDisk => "VirtualDisk",
            Self::VirtualDiskSnapshot => "VirtualDiskSnapshot",
        }
    }
}

/// Data that the user uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct UploadDataSource {
    /// Checksums of the data as it is sent. It must match all that are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<ChecksumSpec>,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = http_alone())]
#[x_kube(validation = container_image_alone())]
#[x_kube(validation = object_ref_alone())]
#[x_kube(validation = upload_alone())]
pub struct DataSource {
    #[allow(missing_docs)]
    #[serde(rename = "type")]
    pub kind: DataSourceType,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpDataSource>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_image: Option<ContainerImage>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectRef>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadDataSource>,
}
