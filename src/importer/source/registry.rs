//! [`RegistrySource`]: the disk in another registry's image.

use bytes::Bytes;
use tokio::sync::mpsc;
use url::Url;

use super::{Opened, QUEUE, read};
use crate::artifact::{Fetch, Platform, RemoteImage};
use crate::client::Client;
use crate::disk::Limits;
use crate::importer::SourceError;
use crate::oci::ImageReference;

/// The disk in an image on a registry.
#[derive(Debug)]
pub struct RegistrySource {
    client: Client,
    image: ImageReference,
    platform: Option<Platform>,
    /// What the reference meant when it was opened first, and the file in it.
    pinned: Option<RemoteImage>,
    file_name: Option<String>,
}

impl RegistrySource {
    /// The disk in `image`; of an index, in the image for `platform`.
    #[must_use]
    pub fn new(client: Client, image: ImageReference, platform: Option<Platform>) -> Self {
        Self { client, image, platform, pinned: None, file_name: None }
    }

    pub(super) fn file_name(&self) -> Option<String> {
        self.file_name.clone()
    }

    pub(super) fn url(&self) -> Option<Url> {
        format!("docker://{}", self.image).parse().ok()
    }

    pub(super) fn architecture(&self) -> Option<String> {
        self.pinned.as_ref().map(|image| image.info.architecture.clone()).filter(|text| !text.is_empty())
    }

    pub(super) async fn open(&mut self, limits: Limits) -> Result<Opened, SourceError> {
        if self.pinned.is_none() {
            let found = RemoteImage::resolve(&self.client, &self.image, self.platform.as_ref()).await?;
            self.pinned = Some(found);
        }
        let image = self.pinned.as_ref().ok_or(SourceError::Consumed)?;
        let mut disk = image.disk(limits, Fetch::default()).await?;
        self.file_name = Some(disk.file.name.clone());
        let (sender, pieces) = mpsc::channel::<Result<Bytes, SourceError>>(QUEUE);
        let reading = read(async move {
            while let Some(piece) = disk.content.recv().await {
                if sender.send(piece.map_err(SourceError::from)).await.is_err() {
                    return;
                }
            }
        });
        let identity = format!("{} {}", self.image, image.digest);
        Ok(Opened { length: Some(disk.file.size), modified: None, identity, pieces, reading: Some(reading) })
    }
}
