//! [`Spool`]: the bytes of a pipe, kept in the registry until the import has ended.
//!
//! They become an untagged blob, as they came, and are read again from there. So nothing is copied to a disk of
//! ours, and a registry that stores content once keeps what both have in common once.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::SourceError;
use super::source::{Opened, QUEUE};
use crate::client::{BlobReader, BlobUpload, ClientError, Connections, Repository};
use crate::oci::Digest;

/// Bytes of one request. Each is held in memory until the registry has it.
const CHUNK: usize = 16 << 20;

/// An upload of bytes of unknown number.
pub(super) struct Spool {
    upload: BlobUpload,
}

/// A blob that is a source.
#[derive(Debug, Clone)]
pub struct SpooledSource {
    repository: Repository,
    pub(super) digest: Digest,
    size: u64,
}

impl Spool {
    pub(super) async fn begin(repository: Repository) -> Result<Self, ClientError> {
        Ok(Self { upload: BlobUpload::begin(repository).await? })
    }

    /// Uploads all that comes.
    pub(super) async fn keep(&mut self, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), ClientError> {
        let mut chunk = Vec::new();
        while let Some(piece) = pieces.recv().await {
            chunk.extend_from_slice(&piece);
            if chunk.len() >= CHUNK {
                self.upload.append(std::mem::take(&mut chunk).into()).await?;
            }
        }
        if chunk.is_empty() { Ok(()) } else { self.upload.append(chunk.into()).await }
    }

    /// Makes the bytes a blob.
    pub(super) async fn finish(
        self,
        repository: Repository,
        digest: Digest,
        size: u64,
    ) -> Result<SpooledSource, ClientError> {
        self.upload.finish(&digest).await?;
        Ok(SpooledSource { repository, digest, size })
    }

    /// Takes them back.
    pub(super) async fn cancel(self) -> Result<(), ClientError> {
        self.upload.cancel().await
    }
}

impl SpooledSource {
    pub(super) async fn open(&self) -> Result<Opened, SourceError> {
        let (repository, digest) = (self.repository.clone(), self.digest.clone());
        let mut blob = BlobReader::open(repository, digest, self.size, Connections::default()).await?;
        let (sender, pieces) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(piece) = blob.next().await.transpose() {
                let failed = piece.is_err();
                if sender.send(piece.map_err(SourceError::from)).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Opened { length: Some(self.size), modified: None, identity: self.digest.to_string(), pieces })
    }

    /// Takes the blob out of the repository again.
    pub(super) async fn remove(self) {
        if let Err(error) = self.repository.delete_blob(&self.digest).await {
            tracing::warn!(
                digest = %self.digest, %error,
                "cannot remove what was kept of standard input; the registry's collection will"
            );
        }
    }
}
