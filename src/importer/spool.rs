//! [`Spool`]: the bytes of a pipe, kept in the registry until the import has ended.
//!
//! They become an untagged blob and are read again from there, so that nothing is copied to a disk of ours. A few
//! random bytes stand before them: the blob is removed in the end, and must not be one that somebody else has.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::source::SpooledSource;
use crate::client::{BlobUpload, ClientError, Repository};
use crate::oci::{Algorithm, Digest, Hasher, salt};

/// Bytes of one request. Each is held in memory until the registry has it.
const CHUNK: usize = 16 << 20;

/// An upload of bytes of unknown number.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    repository: Repository,
    upload: BlobUpload,
    salt: Bytes,
}

impl Spool {
    pub(super) async fn begin(repository: Repository) -> Result<Self, ClientError> {
        Ok(Self { upload: BlobUpload::begin(repository.clone()).await?, repository, salt: salt().into() })
    }

    /// A hasher that has seen what stands before the source's bytes.
    pub(super) fn hasher(&self) -> Hasher {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&self.salt);
        hasher
    }

    /// Uploads all that comes.
    pub(super) async fn keep(&mut self, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), ClientError> {
        let mut chunk = self.salt.to_vec();
        while let Some(piece) = pieces.recv().await {
            chunk.extend_from_slice(&piece);
            if chunk.len() >= CHUNK {
                self.upload.append(std::mem::take(&mut chunk).into()).await?;
            }
        }
        if chunk.is_empty() { Ok(()) } else { self.upload.append(chunk.into()).await }
    }

    /// Makes the bytes a blob: `digest` is that of [`Spool::hasher`], and `size` counts the source's bytes.
    pub(super) async fn finish(self, digest: Digest, size: u64) -> Result<SpooledSource, ClientError> {
        self.upload.finish(&digest).await?;
        Ok(SpooledSource::new(self.repository, digest, size))
    }

    /// Takes them back.
    pub(super) async fn cancel(self) -> Result<(), ClientError> {
        self.upload.cancel().await
    }
}
