//! [`Staged`]: a source on its way into another format.
//!
//! A compressed qcow2, as distributions publish them, has next to nothing in common with the version before: what has not changed
//! is compressed to the same clusters, but at other places and cut in other ways. As raw or as plain qcow2 it costs what has
//! changed, and the registry compresses it. That takes the whole disk on a local file system for a while, which nothing else
//! does, so it is done only where it is asked for.

use std::io;

use bytes::Bytes;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::ImportError;
use super::source::{NormalisedSource, Origin};
use crate::disk::{Disk, Format};
use crate::qemu_img;
use crate::sparse::{Ground, SparseWriter};

/// A disk on its way into a temporary file.
pub(super) struct Staged(NamedTempFile);

impl Staged {
    /// An empty file in the folder for temporary files (`TMPDIR`) that nobody else can open.
    pub(super) fn create() -> Result<Self, ImportError> {
        Ok(Self(temporary()?))
    }

    /// Takes in all that comes, without its zeros.
    pub(super) async fn fill(self, mut pieces: mpsc::Receiver<Bytes>) -> Result<Self, ImportError> {
        let failed = |error| ImportError::Temporary { path: self.0.path().to_owned(), error };
        // The name stays here: when the import is stopped it goes at once, whatever the thread is doing.
        let file = self.0.reopen().map_err(failed)?;
        let filled = spawn_blocking(move || {
            let mut writer = SparseWriter::new(&file, Ground::Zeros);
            while let Some(piece) = pieces.blocking_recv() {
                writer.write(&piece)?;
            }
            // Zeros at the end are not written, and are a part of the disk.
            let length = writer.finish()?;
            file.set_len(length)
        });
        let filled: io::Result<()> = filled.await.map_err(|error| ImportError::Broken(error.to_string()))?;
        filled.map_err(failed)?;
        Ok(self)
    }

    /// Converts the disk, which was probed.
    pub(super) async fn convert(
        self,
        disk: &Disk,
        format: Format,
        origin: Origin,
    ) -> Result<NormalisedSource, ImportError> {
        if is_in(disk.format, format) {
            return Ok(NormalisedSource::new(self.0.into_temp_path(), origin));
        }
        qemu_img::is_possible(disk.format, format).await?;
        let converted = temporary()?;
        let outcome = qemu_img::convert(disk.format, self.0.path(), format, converted.path(), false).await;
        outcome.map_err(|error| ImportError::Convert { folder: std::env::temp_dir(), error })?;
        Ok(NormalisedSource::new(converted.into_temp_path(), origin))
    }
}

/// Whether a disk is the same bytes in another format. That a qcow2 is not compressed within would have to be looked at.
pub(super) fn is_in(disk: Format, format: Format) -> bool {
    format == Format::Raw && matches!(disk, Format::Raw | Format::Iso)
}

fn temporary() -> Result<NamedTempFile, ImportError> {
    let made = tempfile::Builder::new().prefix("dvcr-").tempfile();
    made.map_err(|error| ImportError::Temporary { path: std::env::temp_dir(), error })
}
