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

use super::names::{Listing, Names};
use super::{blocking, unless_gone};
use crate::{Entry, Error, Key, Result};

/// Entries looked up in one visit to the blocking threads, first and at most. Arbitrary: enough that the hop is cheap, few enough
/// that a caller who wants a page does not pay for thousands.
const FIRST_BATCH: usize = 128;
const BATCH: usize = 1024;

pub(super) fn list(
    root: Arc<Path>,
    names: Arc<Names>,
    prefix: &Key,
    after: Option<&Key>,
) -> impl Stream<Item = Result<Entry>> + Send + 'static {
    let walk = Walk {
        root,
        names,
        after: after.map(|key| key.as_str().to_owned()),
        pending: vec![Step::Directory(format!("{prefix}/"))],
        batch: FIRST_BATCH,
    };
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

/// What is left of a walk, the next one last.
struct Walk {
    root: Arc<Path>,
    names: Arc<Names>,
    after: Option<String>,
    pending: Vec<Step>,
    batch: usize,
}

/// A step of a walk. Directories are paths below the root that end in `/`.
enum Step {
    Directory(String),
    /// A file beside directories, by its path.
    File(String),
    /// The files of a directory from one on.
    Files {
        directory: String,
        names: Arc<[Box<str>]>,
        next: usize,
    },
}

impl Walk {
    fn next_batch(&mut self) -> io::Result<Vec<Entry>> {
        let mut batch = Vec::new();
        while batch.len() < self.batch {
            match self.pending.pop() {
                None => break,
                Some(Step::Directory(path)) => self.open(path)?,
                Some(Step::File(path)) => batch.extend(self.entry(path)?),
                Some(Step::Files { directory, names, next }) => {
                    if let Some(name) = names.get(next) {
                        let path = format!("{directory}{name}");
                        self.pending.push(Step::Files { directory, names, next: next + 1 });
                        batch.extend(self.entry(path)?);
                    }
                }
            }
        }
        self.batch = BATCH.min(self.batch * 2);
        Ok(batch)
    }

    /// Puts the wanted entries of a directory on the stack, in reverse.
    fn open(&mut self, directory: String) -> io::Result<()> {
        let Some(listing) = self.names.read(&self.root.join(&directory))? else { return Ok(()) };
        match listing {
            Listing::Files(names) => {
                let after = self.after.as_deref().unwrap_or_default();
                let next = match after.strip_prefix(&directory) {
                    Some(after) => names.partition_point(|name| **name <= *after),
                    None if *after > *directory => names.len(),
                    None => 0,
                };
                self.pending.push(Step::Files { directory, names, next });
            }
            Listing::Mixed(names) => {
                let paths = names.into_iter().map(|name| format!("{directory}{name}"));
                let mut wanted: Vec<String> = paths.filter(|path| self.is_wanted(path)).collect();
                wanted.sort_unstable_by(|a, b| b.cmp(a));
                let step =
                    |path: String| if path.ends_with('/') { Step::Directory(path) } else { Step::File(path) };
                self.pending.extend(wanted.into_iter().map(step));
            }
        }
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
        // It may have been deleted since the names were read.
        let found = unless_gone(fs::symlink_metadata(self.root.join(&name)))?;
        let Some(metadata) = found.filter(fs::Metadata::is_file) else { return Ok(None) };
        let key = Key::parse(name).map_err(io::Error::other)?;
        Ok(Some(Entry { key, size: metadata.len(), modified: metadata.modified()? }))
    }
}
