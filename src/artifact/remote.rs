//! [`RemoteImage`]: a disk image on a registry: which manifest it is, and what its config says.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use super::UnpackError;
use crate::client::{Client, ClientError, RemoteManifest, Repository};
use crate::disk::Refusal;
use crate::oci::{Digest, ImageReference, MediaType, Reference};

/// An image cannot be read as a disk.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The registry.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no clear disk in it.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The disk is not acceptable.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is no image.
    #[error("{image} is no disk image: {reason}")]
    NotAnImage {
        /// The image.
        image: String,
        /// Why not.
        reason: String,
    },
    /// The index has nothing for the platform.
    #[error("{image} has no image for {wanted}; it has {}", available.join(", "))]
    NoPlatform {
        /// The image.
        image: String,
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
    /// Bytes could not be handed on within the process.
    #[error("{0}")]
    Broken(String),
}

impl ArtifactError {
    /// Whether another try can never help.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Client(error) => error.is_refusal(),
            Self::Broken(_) => false,
            Self::Unpack(_) | Self::Refused(_) | Self::NotAnImage { .. } | Self::NoPlatform { .. } => true,
        }
    }
}

/// What a machine must be: `linux/amd64`. The third part of `linux/arm64/v8` is of no interest to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The operating system by which container images are chosen; for disks always `linux`.
    pub os: String,
    /// The machine, in Go's words.
    pub architecture: String,
}

/// The text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: it must read OS/ARCHITECTURE, as in linux/amd64")]
pub struct InvalidPlatform(String);

impl Platform {
    /// A Linux node's of an architecture.
    #[must_use]
    pub fn linux(architecture: &str) -> Self {
        Self { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), _, None) if !os.is_empty() && !architecture.is_empty() => {
                Ok(Self { os: os.to_owned(), architecture: architecture.to_owned() })
            }
            _ => Err(InvalidPlatform(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteLayer {
    /// Its name.
    pub digest: Digest,
    /// Bytes, as stored.
    pub size: u64,
    /// What the manifest calls it.
    pub media_type: String,
}

/// What an image's config says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// The machine, in Go's words.
    pub architecture: String,
    /// The operating system by which container images are chosen.
    pub os: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its environment, which CDI reads for KubeVirt's defaults.
    pub env: Vec<String>,
}

/// An image on a registry, pinned to the digest of its manifest.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    /// Where it is.
    pub repository: Repository,
    /// Its manifest's digest; not that of an index through which it was found.
    pub digest: Digest,
    /// What its manifest is.
    pub media_type: MediaType,
    /// Its layers, the lowest first.
    pub layers: Vec<RemoteLayer>,
    /// Its config's digest.
    pub config: Digest,
    /// What its config says.
    pub info: ImageInfo,
    /// Its manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An index may name an index; a third one is somebody's joke.
const DEPTH: usize = 2;

impl RemoteImage {
    /// Finds the image behind a reference. Of an index, the image for `platform` is taken; without one, the only
    /// image or that for linux/amd64.
    pub async fn resolve(
        client: &Client,
        image: &ImageReference,
        platform: Option<&Platform>,
    ) -> Result<Self, ArtifactError> {
        let repository = client.repository_of(image);
        let mut manifest = repository.manifest(&image.reference).await?;
        let mut depth = 0;
        while matches!(manifest.media_type.as_str(), MediaType::INDEX | MediaType::DOCKER_LIST) {
            if depth == DEPTH {
                return Err(no_image(image, "its index names an index that names an index"));
            }
            depth += 1;
            let chosen = choose(image, &manifest, platform)?;
            manifest = repository.manifest(&Reference::Digest(chosen)).await?;
        }
        if !matches!(manifest.media_type.as_str(), MediaType::IMAGE | MediaType::DOCKER_IMAGE) {
            return Err(no_image(image, format!("it is {}", manifest.media_type)));
        }
        Self::read(image, repository, manifest).await
    }

    async fn read(
        image: &ImageReference,
        repository: Repository,
        manifest: RemoteManifest,
    ) -> Result<Self, ArtifactError> {
        let parsed: ImageManifest =
            serde_json::from_slice(&manifest.bytes).map_err(|error| no_image(image, error.to_string()))?;
        let layers = parsed
            .layers()
            .iter()
            .map(|layer| {
                Ok(RemoteLayer {
                    digest: digest(image, layer)?,
                    size: layer.size(),
                    media_type: layer.media_type().to_string(),
                })
            })
            .collect::<Result<Vec<_>, ArtifactError>>()?;
        let config = digest(image, parsed.config())?;
        let document = repository.document(&config).await?;
        // What is no image's config says nothing: artifacts have an empty one.
        let info = serde_json::from_slice(&document).map(|config| ImageInfo::of(&config)).unwrap_or_default();
        Ok(Self {
            repository,
            digest: manifest.digest,
            media_type: manifest.media_type,
            layers,
            config,
            info,
            annotations: parsed.annotations().clone().unwrap_or_default().into_iter().collect(),
        })
    }

    /// Bytes of all layers, as stored.
    #[must_use]
    pub fn stored_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

impl ImageInfo {
    fn of(config: &ImageConfiguration) -> Self {
        let execution = config.config().as_ref();
        let labels = execution.and_then(|execution| execution.labels().clone()).unwrap_or_default();
        Self {
            architecture: config.architecture().to_string(),
            os: config.os().to_string(),
            labels: labels.into_iter().collect(),
            env: execution.and_then(|execution| execution.env().clone()).unwrap_or_default(),
        }
    }
}

fn no_image(image: &ImageReference, reason: impl Into<String>) -> ArtifactError {
    ArtifactError::NotAnImage { image: image.to_string(), reason: reason.into() }
}

fn digest(image: &ImageReference, descriptor: &Descriptor) -> Result<Digest, ArtifactError> {
    descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|error: crate::oci::InvalidDigest| no_image(image, error.to_string()))
}

/// The entry of an index for a platform. One that names no platform fits all.
fn choose(
    image: &ImageReference,
    index: &RemoteManifest,
    platform: Option<&Platform>,
) -> Result<Digest, ArtifactError> {
    let index: ImageIndex =
        serde_json::from_slice(&index.bytes).map_err(|error| no_image(image, error.to_string()))?;
    let named = |entry: &Descriptor| {
        let platform = entry.platform().as_ref()?;
        Some(Platform { os: platform.os().to_string(), architecture: platform.architecture().to_string() })
    };
    // Build tools put attestations beside images.
    let entries: Vec<_> =
        index.manifests().iter().filter(|entry| named(entry).is_none_or(|p| p.os != "unknown")).collect();
    let wanted = platform.cloned().unwrap_or_else(|| Platform::linux("amd64"));
    let fitting = entries.iter().find(|entry| named(entry).as_ref() == Some(&wanted));
    let anything = entries.iter().find(|entry| named(entry).is_none());
    let only = (platform.is_none() && entries.len() == 1).then(|| entries.first()).flatten();
    match fitting.or(anything).or(only) {
        Some(entry) => digest(image, entry),
        None => Err(ArtifactError::NoPlatform {
            image: image.to_string(),
            wanted,
            available: entries.iter().filter_map(|entry| Some(named(entry)?.to_string())).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn name(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn index(entries: &[(&str, Option<(&str, &str)>)]) -> RemoteManifest {
        let entries: Vec<_> = entries
            .iter()
            .map(|(digit, platform)| {
                let mut entry =
                    serde_json::json!({"mediaType": MediaType::IMAGE, "digest": name(digit), "size": 1});
                if let Some((os, architecture)) = platform {
                    entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
                }
                entry
            })
            .collect();
        let bytes =
            serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap();
        RemoteManifest {
            digest: Digest::of(Algorithm::Sha256, &bytes),
            bytes: bytes.into(),
            media_type: MediaType::INDEX.parse().unwrap(),
        }
    }

    fn chosen(entries: &[(&str, Option<(&str, &str)>)], platform: Option<&str>) -> Option<String> {
        let image = "r.example/x".parse().unwrap();
        let platform: Option<Platform> = platform.map(|text| text.parse().unwrap());
        choose(&image, &index(entries), platform.as_ref()).ok().map(|digest| digest.to_string())
    }

    #[test]
    fn the_image_of_the_platform_is_chosen() {
        let entries = [
            ("a", Some(("linux", "arm64"))),
            ("b", Some(("linux", "amd64"))),
            ("c", Some(("unknown", "unknown"))),
        ];
        assert_eq!(chosen(&entries, None), Some(name("b")));
        assert_eq!(chosen(&entries, Some("linux/arm64")), Some(name("a")));
        assert_eq!(chosen(&entries, Some("linux/s390x")), None);
        assert_eq!(chosen(&entries, Some("unknown/unknown")), None);
    }

    #[test]
    fn the_only_image_is_taken_unless_another_platform_is_asked_for() {
        let entries = [("a", Some(("linux", "arm64"))), ("c", Some(("unknown", "unknown")))];
        assert_eq!(chosen(&entries, None), Some(name("a")));
        assert_eq!(chosen(&entries, Some("linux/amd64")), None);
        assert_eq!(chosen(&[("d", None)], Some("linux/amd64")), Some(name("d")));
    }
}
