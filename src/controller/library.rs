//! [`Library`]: the images in our registry: which are there, what belongs to which resource, how one is removed.
//!
//! The controller has no access to the registry's storage; it is a client like any other.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::image::ImageId;
use crate::artifact::{ArtifactError, RemoteImage};
use crate::client::{Client, ClientError, copy};
use crate::oci::{ImageReference, InvalidName, InvalidTag, Reference, RegistryHost, Tag};

/// The images in our registry.
#[derive(Debug, Clone)]
pub struct Library {
    /// A client of the registry.
    pub client: Client,
    /// Where we reach it.
    pub address: RegistryHost,
    /// How the nodes and the users call it.
    pub name: RegistryHost,
}

/// The registry cannot be asked, or not about this.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It does not answer, or not as it should.
    #[error("the registry: {0}")]
    Client(#[from] ClientError),
    /// A name that no repository can have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A UID that no tag can be.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
}

impl Library {
    /// The image of a resource, by the address at which we reach it.
    pub fn image(&self, id: &ImageId) -> Result<ImageReference, LibraryError> {
        let tag: Tag = id.uid.parse()?;
        Ok(ImageReference {
            registry: self.address.clone(),
            repository: id.repository()?,
            reference: Reference::Tag(tag),
        })
    }

    /// The image of a resource, as nodes and users call it.
    pub fn url(&self, id: &ImageId) -> Result<String, LibraryError> {
        Ok(ImageReference { registry: self.name.clone(), ..self.image(id)? }.to_string())
    }

    /// Whether a resource's image is there: its manifest and every layer.
    pub async fn has(&self, id: &ImageId) -> Result<bool, LibraryError> {
        let image = self.image(id)?;
        let found = match RemoteImage::resolve(&self.client, &image, None).await {
            Ok(found) => found,
            Err(ArtifactError::Client(ClientError::NotFound { .. })) => return Ok(false),
            Err(ArtifactError::Client(error)) => return Err(error.into()),
            // Whatever it is, it is not the image that was put there.
            Err(_) => return Ok(false),
        };
        for layer in &found.layers {
            if !found.repository.has_blob(&layer.digest).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The digest of the manifest of a resource's image, if it is there.
    pub async fn digest(&self, id: &ImageId) -> Result<Option<String>, LibraryError> {
        let image = self.image(id)?;
        match self.client.repository_of(&image).manifest(&image.reference).await {
            Ok(manifest) => Ok(Some(manifest.digest.to_string())),
            Err(ClientError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the image of one resource to another one, without moving its bytes. Tells whether it was there.
    pub async fn mount(&self, from: &ImageId, to: &ImageId) -> Result<bool, LibraryError> {
        let (from, to) = (self.image(from)?, self.image(to)?);
        let (source, target) = (self.client.repository_of(&from), self.client.repository_of(&to));
        let sent = Arc::new(AtomicU64::new(0));
        match copy(&source, &from.reference, &target, &to.reference, &sent).await {
            Ok(_) => Ok(true),
            Err(ClientError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the image of a resource, if it is there: its tag, and the manifest. Its bytes are collected when nobody else
    /// has them.
    pub async fn remove(&self, id: &ImageId) -> Result<(), LibraryError> {
        let image = self.image(id)?;
        match self.client.repository_of(&image).delete_manifest(&image.reference).await {
            Ok(()) | Err(ClientError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
