//! Why an import ended without an image.

use std::path::PathBuf;

use super::Cause;
use crate::artifact::{ArtifactError, InvalidFileName};
use crate::client::ClientError;
use crate::disk::Refusal;
use crate::qemu_img::QemuImgError;

/// A source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// An HTTP server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another registry's image.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A file.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// Something that holds no bytes, such as a folder.
    #[error("{}: it is {kind} and no file or block device", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is not what it was when the import began.
    #[error("{source_name} changed while it was read")]
    Changed {
        /// The source.
        source_name: String,
    },
    /// It cannot be read twice.
    #[error("standard input cannot be read twice")]
    Consumed,
    /// A reader within the process died.
    #[error("{0}")]
    Broken(String),
}

/// Nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source cannot be read.
    #[error("cannot read the source: {0}")]
    Source(#[from] SourceError),
    /// The source is not what its publisher made.
    #[error("the source is not the expected one: its checksum is {actual} and should be {expected}")]
    Checksum {
        /// What was given.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The image is not acceptable.
    #[error("the source is refused: {0}")]
    Refused(#[from] Refusal),
    /// It was not converted.
    #[error(transparent)]
    QemuImg(#[from] QemuImgError),
    /// qemu-img failed.
    #[error("{error} (in {}; TMPDIR may name another folder)", folder.display())]
    Convert {
        /// Where the disk was to be.
        folder: PathBuf,
        /// What happened.
        error: QemuImgError,
    },
    /// The disk has no place while it is converted.
    #[error("cannot keep the disk for its conversion: {}: {error}; TMPDIR may name another folder", path.display())]
    Temporary {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// The file name is none.
    #[error(transparent)]
    FileName(#[from] InvalidFileName),
    /// The registry does not take the image.
    #[error("cannot push: {0}")]
    Push(#[source] ClientError),
    /// The source gave something else each time it was read.
    #[error("the source gave something else each time it was read")]
    Unsteady,
    /// The registry loses what it was sent again and again.
    #[error("the registry loses the upload again and again")]
    Unreliable,
    /// It was told to stop.
    #[error("stopped; the same command goes on where it was")]
    Stopped,
    /// A part of the process died.
    #[error("{0}")]
    Broken(String),
}

impl ImportError {
    /// What it was, in a word.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::Source(_) | Self::Unsteady => Cause::Source,
            Self::Checksum { .. } => Cause::Checksum,
            Self::Refused(_) => Cause::Disk,
            Self::QemuImg(_) | Self::Convert { .. } | Self::Temporary { .. } => Cause::Conversion,
            Self::Push(_) | Self::Unreliable => Cause::Registry,
            Self::Stopped => Cause::Killed,
            Self::FileName(_) | Self::Broken(_) => Cause::Other,
        }
    }

    /// Whether another try can never help, because the source itself is bad or forbidden.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Checksum { .. } | Self::Refused(_) | Self::FileName(_) => true,
            Self::Source(SourceError::Client(error)) => error.is_refusal(),
            Self::Source(SourceError::Artifact(error)) => error.is_refusal(),
            _ => false,
        }
    }
}
