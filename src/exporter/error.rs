//! [`ExportError`]: why a disk did not come out.

use std::path::PathBuf;

use crate::artifact::ArtifactError;
use crate::disk::Refusal;
use crate::qemu_img::QemuImgError;

/// Nothing came out, or nothing that may be used.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The image cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The disk cannot be converted safely.
    #[error("the disk cannot be converted: {0}")]
    Refused(#[from] Refusal),
    /// The destination cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The destination.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// There is something already.
    #[error("{} exists already: use --force to replace it", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// There is something that is no file.
    #[error("{} is no file: give the name of one", path.display())]
    NotAFile {
        /// The destination.
        path: PathBuf,
    },
    /// Another process writes there.
    #[error("{} is being written by another process", path.display())]
    Busy {
        /// The destination.
        path: PathBuf,
    },
    /// The destination cannot hold it.
    #[error("{} has {has} bytes and the disk needs {needs}", path.display())]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Bytes of the device.
        has: u64,
        /// Bytes of the disk.
        needs: u64,
    },
    /// It was not converted.
    #[error(transparent)]
    QemuImg(#[from] QemuImgError),
    /// A stream takes the disk only as it is.
    #[error("a disk that goes to standard output cannot be converted: give a file")]
    ConvertStream,
    /// A part of the process died.
    #[error("{0}")]
    Broken(String),
}

impl ExportError {
    /// Whether another try can never help.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Artifact(error) => error.is_refusal(),
            Self::Refused(_) => true,
            _ => false,
        }
    }
}
