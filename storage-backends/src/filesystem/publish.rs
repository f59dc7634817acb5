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
        let mut staged = self.stage(bytes)?;
        if replace {
            directories.within(target, || fs::rename(&staged.path, target))?;
            staged.is_there = false;
        } else {
            directories.within(target, || fs::hard_link(&staged.path, target))?;
        }
        sync::sync_parent(target)
    }

    fn stage(&self, bytes: &[u8]) -> io::Result<Staged> {
        let path = self.staging.join(self.number.fetch_add(1, Ordering::Relaxed).to_string());
        let create = || File::options().write(true).create_new(true).open(&path);
        let mut file = create().or_else(|error| {
            // Somebody has tidied up.
            if error.kind() == io::ErrorKind::NotFound {
                fs::create_dir_all(&self.staging)?;
                return create();
            }
            Err(error)
        })?;
        let staged = Staged { path, is_there: true };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    }
}

/// A file that was written aside. Dropping it removes it.
struct Staged {
    path: PathBuf,
    is_there: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_there
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "failed to remove a staged file; the next start does");
        }
    }
}
