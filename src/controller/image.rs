//! [`Image`]: `VirtualImage`, `ClusterVirtualImage` and `VMDisk` seen alike, so that there is one reconciler. A disk is an image that is
//! kept in a claim of the size that its user asks for.

mod vm_disk;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::condition::{self, Type};
use super::crd::{
    ChecksumSpec, ClusterVirtualImage, DataSourceType, HttpDataSource, ImageStatus, ObjectRefKind, Phase,
    Storage, UploadDataSource, VirtualImage,
};
use crate::client::check_authorities;
use crate::importer::Checksum;
use crate::oci::{ImageReference, InvalidName, RepositoryName};

/// Which of the resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Of one namespace.
    VirtualImage,
    /// For all namespaces.
    ClusterVirtualImage,
    /// A disk, of one namespace.
    VmDisk,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::VirtualImage, Self::ClusterVirtualImage, Self::VmDisk];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VirtualImage => "VirtualImage",
            Self::ClusterVirtualImage => "ClusterVirtualImage",
            Self::VmDisk => "VMDisk",
        }
    }
}

/// One image, also if another one had its name before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId {
    /// Which resource.
    pub kind: Kind,
    /// The namespace, of those that have one.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
            None => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

/// The longest name of a repository with which its host and tag still fit the limits that clients have.
const LONGEST_REPOSITORY: usize = 190;

impl ImageId {
    /// The repository of the image: `vi/<namespace>/<name>` or `cvi/<name>`. What a disk has in the registry on its way into its claim
    /// is in `vi/<namespace>/vm-disk-<name>`, to which the rules of its namespace apply.
    ///
    /// A name that is too long is cut, and ends in a hash of the whole.
    pub fn repository(&self) -> Result<RepositoryName, InvalidName> {
        let full = match (&self.namespace, self.kind) {
            (Some(namespace), Kind::VmDisk) => format!("vi/{namespace}/vm-disk-{}", self.name),
            (Some(namespace), _) => format!("vi/{namespace}/{}", self.name),
            (None, _) => format!("cvi/{}", self.name),
        };
        if full.len() <= LONGEST_REPOSITORY {
            return full.parse();
        }
        let kept: String = full.chars().take(LONGEST_REPOSITORY - 17).collect();
        format!("{}-{:016x}", kept.trim_end_matches(['-', '.', '/']), fnv1a(&full)).parse()
    }
}

/// FNV-1a, 64 bits: stable for ever, which the standard library's hashes are not.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
}

/// A file on a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpFile {
    /// Where it is.
    pub url: Url,
    /// Certificate authorities, PEM.
    pub authorities: Option<Vec<u8>>,
    /// What the file must hash to.
    pub checksums: Vec<Checksum>,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A web server.
    Http(HttpFile),
    /// Another registry.
    Registry {
        /// The image there.
        image: ImageReference,
        /// Certificate authorities, PEM.
        authorities: Option<Vec<u8>>,
        /// Who we are there.
        secret: Option<SecretRef>,
    },
    /// The user.
    Upload {
        /// What the file must hash to.
        checksums: Vec<Checksum>,
    },
    /// Another resource.
    Object {
        /// Its kind.
        kind: ObjectRefKind,
        /// Its namespace, if it has one.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// A file on a web server, of which all disks share one image.
    Shared {
        /// Where it is.
        file: HttpFile,
        /// The same as it is written, for the image that is shared.
        spec: Box<HttpDataSource>,
    },
    /// An image that is kept ready for all, by its name.
    Golden(String),
    /// Another disk of the namespace, by its name.
    Disk(String),
    /// Nothing: an empty disk.
    Empty,
}

/// How old an image that has failed is made again for whoever needs it then.
const STALE: Duration = Duration::from_mins(10);

/// Removes an image, and none that has its name meanwhile. One that is gone is removed.
pub(super) async fn remove<I: Image>(client: &Client, image: &I) -> Result<(), kube::Error> {
    let id = image.id();
    let preconditions = Some(Preconditions { uid: Some(id.uid), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    match I::api(client, id.namespace.as_deref()).delete(&id.name, &parameters).await {
        Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// What the resources have in common.
pub trait Image:
    Resource<DynamicType = ()> + Clone + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Which of them.
    const KIND: Kind;
    /// Keeps the resource until what belongs to it is gone.
    const CLEANUP: &str;
    /// Whether it is made again from its source when it is lost. A disk is not: what machines have written is lost with it, and an
    /// empty one in its place would look as if nothing had happened.
    const HEALS: bool = true;

    /// The interface to these resources in one namespace; the namespace is of no meaning to cluster-wide ones.
    fn api(client: &Client, namespace: Option<&str>) -> Api<Self>;
    /// Where it comes from; a sentence when the spec makes no sense, though the schema allows it.
    fn origin(&self) -> Result<Origin, String>;
    /// Where it is kept.
    fn storage(&self) -> Storage;
    /// The storage class that it asks for.
    fn storage_class(&self) -> Option<&str>;
    /// The bytes that its claim is to have, if that is not for the image to say.
    fn size(&self) -> Option<u64> {
        None
    }
    /// Its status.
    fn status(&self) -> Option<&ImageStatus>;
    /// Its status, to be written.
    fn set_status(&mut self, status: ImageStatus);

    /// Whether it can be used.
    fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| condition::holds(status, Type::Ready))
    }

    /// Whether it can never be made as it is.
    fn has_failed(&self) -> bool {
        self.status().is_some_and(|status| status.phase == Some(Phase::Failed))
    }

    /// Whether it is there for so long.
    fn is_older(&self, than: Duration) -> bool {
        let created = self.meta().creation_timestamp.as_ref();
        let age = created.map(|created| jiff::Timestamp::now().duration_since(created.0));
        age.is_some_and(|age| Duration::try_from(age).is_ok_and(|age| age >= than))
    }

    /// Whether it has failed, and that so long ago that it may be made by now: whoever needs it has it made again.
    fn is_worth_another_try(&self) -> bool {
        self.has_failed() && self.is_older(STALE)
    }

    /// Which image it is.
    fn id(&self) -> ImageId {
        let ObjectMeta { namespace, name, uid, .. } = self.meta().clone();
        ImageId { kind: Self::KIND, namespace, name: name.unwrap_or_default(), uid: uid.unwrap_or_default() }
    }
}

impl Image for VirtualImage {
    const KIND: Kind = Kind::VirtualImage;
    const CLEANUP: &str = "virtualization.deckhouse.io/vi-cleanup";

    fn api(client: &Client, namespace: Option<&str>) -> Api<Self> {
        match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }

    fn origin(&self) -> Result<Origin, String> {
        let source = &self.spec.data_source;
        let namespace = self.metadata.namespace.clone().unwrap_or_default();
        match source.kind {
            DataSourceType::Http => http(source.http.as_ref(), "spec.dataSource.http").map(Origin::Http),
            DataSourceType::ContainerImage => {
                let container =
                    source.container_image.as_ref().ok_or("spec.dataSource.containerImage is missing")?;
                let secret = container.image_pull_secret.as_ref().and_then(|secret| secret.name.clone());
                let secret = secret.map(|name| SecretRef { namespace, name });
                registry(&container.image, container.ca_bundle.as_deref(), secret)
            }
            DataSourceType::Upload => upload(source.upload.as_ref()),
            DataSourceType::ObjectRef => {
                let object = source.object_ref.as_ref().ok_or("spec.dataSource.objectRef is missing")?;
                let is_cluster_wide = object.kind == ObjectRefKind::ClusterVirtualImage;
                let namespace = (!is_cluster_wide).then_some(namespace);
                Ok(Origin::Object { kind: object.kind, namespace, name: object.name.clone() })
            }
        }
    }

    fn storage(&self) -> Storage {
        self.spec.storage
    }

    fn storage_class(&self) -> Option<&str> {
        self.spec.persistent_volume_claim.as_ref()?.storage_class_name.as_deref()
    }

    fn status(&self) -> Option<&ImageStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: ImageStatus) {
        self.status = Some(status);
    }
}

impl Image for ClusterVirtualImage {
    const KIND: Kind = Kind::ClusterVirtualImage;
    const CLEANUP: &str = "virtualization.deckhouse.io/cvi-cleanup";

    fn api(client: &Client, _namespace: Option<&str>) -> Api<Self> {
        Api::all(client.clone())
    }

    fn origin(&self) -> Result<Origin, String> {
        let source = &self.spec.data_source;
        match source.kind {
            DataSourceType::Http => http(source.http.as_ref(), "spec.dataSource.http").map(Origin::Http),
            DataSourceType::ContainerImage => {
                let container =
                    source.container_image.as_ref().ok_or("spec.dataSource.containerImage is missing")?;
                let secret = match &container.image_pull_secret {
                    Some(secret) => match (&secret.namespace, &secret.name) {
                        (Some(namespace), Some(name)) => {
                            Some(SecretRef { namespace: namespace.clone(), name: name.clone() })
                        }
                        (None, None) => None,
                        _ => return Err("imagePullSecret needs both a name and a namespace".to_owned()),
                    },
                    None => None,
                };
                registry(&container.image, container.ca_bundle.as_deref(), secret)
            }
            DataSourceType::Upload => upload(source.upload.as_ref()),
            DataSourceType::ObjectRef => {
                let object = source.object_ref.as_ref().ok_or("spec.dataSource.objectRef is missing")?;
                let is_cluster_wide = object.kind == ObjectRefKind::ClusterVirtualImage;
                let namespace = object.namespace.clone().filter(|_| !is_cluster_wide);
                Ok(Origin::Object { kind: object.kind, namespace, name: object.name.clone() })
            }
        }
    }

    fn storage(&self) -> Storage {
        Storage::ContainerRegistry
    }

    fn storage_class(&self) -> Option<&str> {
        None
    }

    fn status(&self) -> Option<&ImageStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: ImageStatus) {
        self.status = Some(status);
    }
}

/// `field` is where it is written.
fn http(source: Option<&HttpDataSource>, field: &str) -> Result<HttpFile, String> {
    let source = source.ok_or_else(|| format!("{field} is missing"))?;
    let url = source.url.parse().map_err(|error| format!("{field}.url: {error}"))?;
    Ok(HttpFile {
        url,
        authorities: authorities(source.ca_bundle.as_deref())?,
        checksums: checksums(source.checksum.as_ref())?,
    })
}

fn registry(image: &str, bundle: Option<&str>, secret: Option<SecretRef>) -> Result<Origin, String> {
    let image = image.parse().map_err(|error| format!("spec.dataSource.containerImage.image: {error}"))?;
    Ok(Origin::Registry { image, authorities: authorities(bundle)?, secret })
}

fn upload(source: Option<&UploadDataSource>) -> Result<Origin, String> {
    Ok(Origin::Upload { checksums: checksums(source.and_then(|source| source.checksum.as_ref()))? })
}

fn authorities(bundle: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    let Some(bundle) = bundle.filter(|bundle| !bundle.is_empty()) else { return Ok(None) };
    // YAML folds long lines, so there may be white space.
    let packed: String = bundle.chars().filter(|c| !c.is_whitespace()).collect();
    let decoded = base64::engine::general_purpose::STANDARD.decode(packed);
    let pem = decoded.map_err(|error| format!("caBundle is no Base64: {error}"))?;
    check_authorities(&pem).map_err(|error| format!("caBundle: {error}"))?;
    Ok(Some(pem))
}

fn checksums(spec: Option<&ChecksumSpec>) -> Result<Vec<Checksum>, String> {
    let given = spec.into_iter().flat_map(ChecksumSpec::given);
    given.map(|text| text.parse().map_err(|error| format!("checksum: {error}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: Option<&str>, name: &str) -> ImageId {
        ImageId {
            kind: if namespace.is_some() { Kind::VirtualImage } else { Kind::ClusterVirtualImage },
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            uid: "u".to_owned(),
        }
    }

    #[test]
    fn every_name_that_kubernetes_allows_is_a_repository() {
        for (namespace, name, repository) in [
            (Some("default"), "ubuntu-22.04", "vi/default/ubuntu-22.04"),
            (None, "ubuntu-24-04", "cvi/ubuntu-24-04"),
            (Some("a--b"), "1.2.3", "vi/a--b/1.2.3"),
        ] {
            assert_eq!(id(namespace, name).repository().unwrap().as_str(), repository);
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let long =
            |end: &str| id(Some(&"n".repeat(63)), &format!("{}{end}", "x".repeat(250))).repository().unwrap();
        assert_ne!(long("a"), long("b"));
        assert!(long("a").as_str().len() <= LONGEST_REPOSITORY);
        assert_eq!(long("a"), long("a"));
        // A cut must not end in a separator.
        id(None, &format!("{}-{}", "y".repeat(168), "z".repeat(80))).repository().unwrap();
    }
}
