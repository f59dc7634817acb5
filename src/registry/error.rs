//! What the engine refuses or fails to do, by what a caller can do about it.

use storage_backends::Key;

use super::{QuotaExceeded, SessionId};
use crate::oci::{Digest, InvalidManifest, Reference, RepositoryName};

/// The result of an operation of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository does not have this blob.
    #[error("repository {name} has no blob {digest}")]
    BlobUnknown {
        /// Where it was looked for.
        name: RepositoryName,
        /// What was looked for.
        digest: Digest,
    },
    /// The repository does not have this manifest.
    #[error("repository {name} has no manifest {reference}")]
    ManifestUnknown {
        /// Where it was looked for.
        name: RepositoryName,
        /// What was looked for.
        reference: Reference,
    },
    /// Nothing was ever pushed there.
    #[error("there is no repository {name}")]
    RepositoryUnknown {
        /// What was looked for.
        name: RepositoryName,
    },
    /// The session has ended, was cancelled or never was, or what it held is lost. The upload has to begin
    /// again.
    #[error("there is no upload session {id} in this repository")]
    SessionUnknown {
        /// What was looked for.
        id: String,
    },
    /// The bytes are not the next ones.
    #[error("upload session {id} has {length} bytes; the next chunk must begin there")]
    OutOfOrder {
        /// The session.
        id: SessionId,
        /// Bytes it has.
        length: u64,
    },
    /// The body did not have the announced number of bytes. The session stands where it last was safe.
    #[error("the body has {actual} bytes where {expected} were announced")]
    SizeMismatch {
        /// Announced.
        expected: u64,
        /// Received.
        actual: u64,
    },
    /// The content is not what the client named it. Nothing of it was kept.
    #[error("the content has digest {actual}, not {expected}")]
    DigestMismatch {
        /// What the client said.
        expected: Digest,
        /// What the bytes are.
        actual: Digest,
    },
    /// The manifest cannot be kept.
    #[error(transparent)]
    ManifestInvalid(#[from] InvalidManifest),
    /// The manifest needs blobs that its repository does not have.
    #[error("repository {name} lacks blobs that the manifest needs: {}", join(.digests))]
    ManifestBlobUnknown {
        /// Where they were looked for.
        name: RepositoryName,
        /// What is missing.
        digests: Vec<Digest>,
    },
    /// The client went away in the middle of its body. What had come is kept.
    #[error("the client closed the connection in the middle of the body")]
    BodyInterrupted,
    /// The client sent nothing for too long. What had come is kept.
    #[error("the client sent nothing for {seconds} s")]
    BodyStalled {
        /// The idle limit.
        seconds: u64,
    },
    /// The body cannot be made out from somewhere on. What had come is kept.
    #[error("{reason}")]
    BodyRefused {
        /// What is wrong with it.
        reason: String,
    },
    /// The storage failed under what the body refers to. What had come is kept; trying again may help.
    #[error("{reason}")]
    BodyUnavailable {
        /// What failed.
        reason: String,
    },
    /// A quota of the repository does not allow it.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
    /// A stored record cannot be understood.
    #[error("the record under {key} is damaged or of a later release: {reason}")]
    Record {
        /// Where it is.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
    /// A collection is just deciding on data that the upload uses. Trying again will help.
    #[error("data that the upload uses is being collected; try again in a moment")]
    Collecting,
    /// The store is full: reads go on, writes will succeed when there is space.
    #[error("the storage is full")]
    Full,
    /// The store failed. Trying again may help.
    #[error("the storage failed")]
    Store(#[source] storage_backends::Error),
}

impl Error {
    /// Whether the body ended too early, so that what had come of it is worth keeping.
    pub(super) fn is_of_body(&self) -> bool {
        matches!(
            self,
            Self::BodyInterrupted
                | Self::BodyStalled { .. }
                | Self::BodyRefused { .. }
                | Self::BodyUnavailable { .. }
        )
    }
}

/// For failures of the store that mean nothing more. Where "not found" is an answer, it is matched before.
impl From<storage_backends::Error> for Error {
    fn from(error: storage_backends::Error) -> Self {
        match error {
            storage_backends::Error::Full { .. } => Self::Full,
            other => Self::Store(other),
        }
    }
}

fn join(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
