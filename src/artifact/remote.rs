//! [`RemoteImage`]: a disk image on a registry: which manifest it is, and what its config says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

use super::select::{SelectedImage, Selection, Step};
use super::{ImageLayer, Platform, SelectionError, UnpackError};
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
    /// It is no image, or has none for the machine.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The older version of the disk cannot be read.
    #[error("cannot read {path}, which was to be the base: {error}", path = path.display())]
    Base {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
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
            Self::Broken(_) | Self::Base { .. } => false,
            Self::Unpack(_) | Self::Refused(_) | Self::Selection(_) => true,
        }
    }
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
    pub layers: Vec<ImageLayer>,
    /// Its config's digest.
    pub config: Digest,
    /// What its config says.
    pub info: ImageInfo,
    /// Its manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

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
        let mut selection = Selection::of(image.to_string(), platform.cloned());
        loop {
            match selection.follow(&manifest.media_type, &manifest.bytes)? {
                Step::Manifest(chosen) => manifest = repository.manifest(&Reference::Digest(chosen)).await?,
                Step::Image(image) => return Self::read(repository, manifest, &image).await,
            }
        }
    }

    async fn read(
        repository: Repository,
        manifest: RemoteManifest,
        image: &SelectedImage,
    ) -> Result<Self, ArtifactError> {
        let config = image.config.clone();
        let document = repository.document(&config).await?;
        // What is no image's config says nothing: artifacts have an empty one.
        let info = serde_json::from_slice(&document).map(|config| ImageInfo::of(&config)).unwrap_or_default();
        Ok(Self {
            repository,
            digest: manifest.digest,
            media_type: manifest.media_type,
            layers: image.layers.clone(),
            config,
            info,
            annotations: image.annotations.clone(),
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
