//! Small objects: written aside, synced, and only then given their name.
//!
//! What is written aside lies in one folder, so that what a killed process has left there is removed when the next one
//! opens the directory, however much else there is.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::sync::{self, Directories};

/// Publishes small objects below one root.
#[derive(Debug)]
pub(super) struct Publisher {
    staging: PathBuf,
    number: AtomicU64,
}

impl Publisher {
    /// Stages in the folder `staging`, which must be nobody else's and is emptied.
    pub(super) fn open(staging: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&staging)?;
        for left in fs::read_dir(&staging)? {
            fs::remove_file(left?.path())?;
        }
        Ok(Self { staging, number: AtomicU64::new(0) })
    }

    /// Puts `bytes` under the name `target`, durably. What is there already is replaced, or, unless `replace`, an error.
    pub(super) fn publish(
        &self,
        directories: &Directories,
        target: &Path,
        bytes: &[u8],
        replace: bool,
    ) -> io::Result<()> {
        directories.make_parent(target)?;
        let staged = self.stage(bytes)?;
        if replace {
            fs::rename(&staged.0, target)?;
            // The name is not there any more.
            std::mem::forget(staged);
        } else {
            fs::hard_link(&staged.0, target)?;
        }
        sync::sync_parent(target)
    }

    fn stage(&self, bytes: &[u8]) -> io::Result<Staged> {
        let path = self.staging.join(self.number.fetch_add(1, Ordering::Relaxed).to_string());
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        let staged = Staged(path);
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    }
}

/// A file that has no name of its own yet. Dropping it removes it.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "failed to remove a staged file; the next start does");
        }
    }
}
