//! Listing a directory tree in byte order of the whole path, from any point, a directory at a time.
//!
//! A directory's entries are sorted with a `/` behind the names of sub-directories. That makes the
//! depth-first walk yield keys in byte order (`a-b/x` before `a/x`), as S3 does, and lets a walk
//! that begins after some key skip whole directories before it without opening them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::blocking;
use crate::{Entry, Error, Key, Result};

/// Entries looked up in one visit to the blocking threads. Arbitrary: enough that the hop is cheap, few enough
/// that a caller who wants ten entries does not pay for thousands.
const BATCH: usize = 256;

pub(super) fn list(
    root: Arc<Path>,
    prefix: &Key,
    after: Option<&Key>,
) -> impl Stream<Item = Result<Entry>> + Send + 'static {
    let walk =
        Walk { root, after: after.map(|key| key.as_str().to_owned()), pending: vec![format!("{prefix}/")] };
    let prefix = prefix.clone();
    stream::try_unfold(walk, move |mut walk| {
        let prefix = prefix.clone();
        async move {
            let (batch, walk) = blocking(move || (walk.next_batch(), walk)).await;
            let batch = batch.map_err(|e| Error::unavailable("list", prefix.as_str(), e))?;
            Ok((!batch.is_empty()).then(|| (stream::iter(batch).map(Ok), walk)))
        }
    })
    .try_flatten()
}

/// What is left of a walk: names below the root, the next one last. Directories end in `/`.
struct Walk {
    root: Arc<Path>,
    after: Option<String>,
    pending: Vec<String>,
}

impl Walk {
    fn next_batch(&mut self) -> io::Result<Vec<Entry>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(name) = self.pending.pop() else { break };
            if name.ends_with('/') {
                self.open(&name)?;
            } else {
                batch.extend(self.entry(name)?);
            }
        }
        Ok(batch)
    }

    /// Puts the wanted entries of a directory on the stack, in reverse.
    fn open(&mut self, directory: &str) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let first = self.pending.len();
        for entry in entries {
            let entry = entry?;
            // Names that are no keys are staging files of earlier versions (`name#1`) or somebody else's.
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let is_directory = entry.file_type()?.is_dir();
            let path = format!("{directory}{name}{}", if is_directory { "/" } else { "" });
            if Key::parse(name).is_ok() && self.is_wanted(&path) {
                self.pending.push(path);
            }
        }
        self.pending[first..].sort_unstable_by(|a, b| b.cmp(a));
        Ok(())
    }

    /// Whether `path`, or anything below it, comes after the starting point.
    fn is_wanted(&self, path: &str) -> bool {
        match &self.after {
            None => true,
            Some(after) => path > after.as_str() || (path.ends_with('/') && after.starts_with(path)),
        }
    }

    fn entry(&self, name: String) -> io::Result<Option<Entry>> {
        let metadata = match fs::symlink_metadata(self.root.join(&name)) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            // Deleted since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let key = Key::parse(name).map_err(io::Error::other)?;
        Ok(Some(Entry { key, size: metadata.len(), modified: metadata.modified()? }))
    }
}
