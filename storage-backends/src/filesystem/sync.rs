//! Directory changes that survive a power cut: a name is only as durable as the last sync of its directory.

use std::fs::{self, File};
use std::io;
use std::path::Path;

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

/// Removes a file and its entry, durably. A file that is not there is removed already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
