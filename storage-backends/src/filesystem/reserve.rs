//! [`Reserve`]: space that is kept for when there is no other, so that a full disk can be cleared.
//!
//! Whatever deletes writes first what it deletes. So a file takes some space, and gives it up when a small object finds none; from
//! then on no data is taken in, until there is as much space again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// A file that takes space for others.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    size: u64,
    is_whole: Mutex<bool>,
}

impl Reserve {
    /// Enough for the list of what a collection condemns, many times.
    const MOST: u64 = 8 << 20;

    /// Of a small disk this part.
    const PART: u64 = 64;

    /// The reserve of the file system that holds `path`, as much as there is space for.
    pub(super) fn open(path: PathBuf, root: &Path) -> io::Result<Self> {
        let all = statvfs(root)?;
        let size = Self::MOST.min(all.f_blocks.saturating_mul(all.f_frsize) / Self::PART).max(1);
        let reserve = Self { path, size, is_whole: Mutex::new(false) };
        reserve.fill();
        Ok(reserve)
    }

    /// Whether it is whole, now that what was missing was taken, if there was space.
    pub(super) fn fill(&self) -> bool {
        let mut is_whole = self.is_whole();
        if !*is_whole {
            *is_whole = self.allocate().is_ok();
            if !*is_whole {
                // What it got is of more use to others.
                self.remove();
            }
        }
        *is_whole
    }

    /// Does what found no space once more, in the space that this gives up: nobody takes it back meanwhile.
    pub(super) fn give_to<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut is_whole = self.is_whole();
        if std::mem::take(&mut *is_whole) {
            tracing::warn!("the disk is full: no data is taken in until there is space again");
            self.remove();
        }
        work()
    }

    fn allocate(&self) -> io::Result<()> {
        // To try takes what is left from others for a moment.
        let all = statvfs(self.path.parent().unwrap_or(&self.path))?;
        if all.f_bavail.saturating_mul(all.f_frsize) < self.size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut file = File::options().write(true).create(true).truncate(false).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.size) {
            Ok(()) => return Ok(()),
            // Not every file system can do that.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        let piece = [1; 4096];
        for _ in 0..self.size.div_ceil(piece.len() as u64) {
            file.write_all(&piece)?;
        }
        file.sync_all()
    }

    fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "failed to give up reserved space");
        }
    }

    fn is_whole(&self) -> MutexGuard<'_, bool> {
        self.is_whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_given_up_once_and_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let reserve = Reserve::open(path.clone(), folder.path()).unwrap();
        assert!(fs::metadata(&path).unwrap().len() > 0);
        for _ in 0..2 {
            let is_gone = reserve.give_to(|| Ok(!path.exists())).unwrap();
            assert!(is_gone);
        }
        assert!(reserve.fill());
        assert!(path.exists());
    }
}
