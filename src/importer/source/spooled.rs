//! [`SpooledSource`]: what was read from a pipe and is kept in the registry.

use bytes::Buf as _;
use tokio::sync::mpsc;

use super::{Opened, QUEUE, read};
use crate::client::{BlobReader, Connections, Repository};
use crate::importer::SourceError;
use crate::oci::{Digest, SALT};

/// A blob that is a source.
#[derive(Debug, Clone)]
pub struct SpooledSource {
    repository: Repository,
    digest: Digest,
    /// Bytes of the source.
    size: u64,
}

impl SpooledSource {
    /// The blob `digest`: a salt, and then `size` bytes of the source.
    pub(in crate::importer) fn new(repository: Repository, digest: Digest, size: u64) -> Self {
        Self { repository, digest, size }
    }

    pub(super) async fn open(&self) -> Result<Opened, SourceError> {
        open_salted(self.repository.clone(), self.digest.clone(), self.size).await
    }

    /// Takes the blob out of the repository again.
    pub(in crate::importer) async fn remove(self) {
        if let Err(error) = self.repository.delete_blob(&self.digest).await {
            tracing::warn!(
                digest = %self.digest, %error,
                "cannot remove what was kept of standard input; the registry's collection will"
            );
        }
    }
}

/// Opens the blob `digest`: a salt, and then `size` bytes of a source.
pub(super) async fn open_salted(
    repository: Repository,
    digest: Digest,
    size: u64,
) -> Result<Opened, SourceError> {
    let identity = digest.to_string();
    let stored = size.saturating_add(SALT);
    let mut blob = BlobReader::open(repository, digest, stored, Connections::default()).await?;
    let (sender, pieces) = mpsc::channel(QUEUE);
    let reading = read(async move {
        let mut salted = usize::try_from(SALT).unwrap_or(0);
        while let Some(mut piece) = blob.next().await.transpose() {
            let failed = piece.is_err();
            if let Ok(piece) = &mut piece {
                let before = salted.min(piece.len());
                piece.advance(before);
                salted -= before;
            }
            if sender.send(piece.map_err(SourceError::from)).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(Opened { length: Some(size), modified: None, identity, pieces, reading: Some(reading) })
}
