//! Directory changes that survive a power cut: a name is only as durable as the last sync of its directory.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::unless_gone;

/// The directories below a root whose names are known to be durable.
///
/// That a directory is there says nothing: somebody else may have made it just now, and not have synced it yet.
#[derive(Debug)]
pub(super) struct Directories {
    root: Arc<Path>,
    safe: Mutex<HashSet<PathBuf>>,
    /// How often something was added to a directory, or to one of those that share its counter.
    added: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Directories {
    /// So many are remembered. Arbitrary: some megabytes; of one that is forgotten the name is synced once more.
    const MOST: usize = 20_000;

    /// Arbitrary: 32 KiB, and many more than there are directories in which much is going on.
    const COUNTERS: usize = 4096;

    /// Those below `root`, which is durable itself.
    pub(super) fn below(root: &Arc<Path>) -> Self {
        Self {
            root: Arc::clone(root),
            safe: Mutex::default(),
            added: (0..Self::COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// A number that is another one from when something that was added to a directory [`within`](Self::within) it is told of.
    pub(super) fn additions(&self, directory: &Path) -> u64 {
        self.counter(directory).map_or(0, |counter| counter.load(Ordering::SeqCst))
    }

    fn counter(&self, directory: &Path) -> Option<&AtomicU64> {
        let hash = usize::try_from(self.hasher.hash_one(directory) % Self::COUNTERS as u64).ok()?;
        self.added.get(hash)
    }

    /// Something may be in the directory that `path` is in.
    fn added(&self, path: &Path) {
        if let Some(counter) = path.parent().and_then(|parent| self.counter(parent)) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Does something in the directory that `path` is in. It is made with those above it, unless they are there; durably in any case.
    pub(super) fn within<T>(&self, path: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        self.make_parent(path)?;
        let done = match work() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody has removed directories that were empty.
                self.safe().clear();
                self.make_parent(path)?;
                work()
            }
            done => done,
        };
        self.added(path);
        done
    }

    fn make_parent(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), |parent| self.make(parent))
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        if *path == *self.root || self.safe().contains(path) {
            return Ok(());
        }
        self.make_parent(path)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => {
                return Err(error);
            }
            _ => self.added(path),
        }
        sync_parent(path)?;
        let mut safe = self.safe();
        if safe.len() >= Self::MOST {
            safe.clear();
        }
        safe.insert(path.to_owned());
        Ok(())
    }

    fn safe(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.safe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Syncs the directory that holds `path`, making its entry durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Creates `path` and the directories above it, syncing the parent of each new one.
pub(super) fn create_dir_all(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.exists() => {
                create_dir_all(parent)?;
                create_dir_all(path)
            }
            // The parent is there, and takes no directories.
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Makes everything durable that is in the file system of `path`, whoever wrote it.
pub(super) fn sync_all(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Removes a file and its entry, durably, also one that somebody else has removed and not synced.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    unless_gone(fs::remove_file(path))?;
    // Or there never was such a directory.
    unless_gone(sync_parent(path)).map(drop)
}
