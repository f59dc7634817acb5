//! [`Names`]: the names in a directory, in order; those of large ones are kept, so that a page of a list costs the page.
//!
//! A directory tells its names in no order, so the first of them is known when all have been read and sorted. Of a repository with
//! 100,000 tags that would be done for each page of a hundred. What is kept is good as long as the directory has not changed since
//! before it was read: what this process adds it counts, and for what somebody else does by hand it asks the directory when it was
//! last modified, which is good to a tick of the kernel's clock. Names that have gone since are for the reader to find out.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::sync::Directories;
use super::unless_gone;
use crate::Key;

/// Names below which a directory is read as quickly as it is looked up.
const FEW: usize = 64;

/// Bytes of memory for names that are kept: those of some 500,000 tags.
const MEMORY: usize = 32 << 20;

/// Directories that are remembered to have been read. Of those that are read once, by a collection, nothing is kept.
const REMEMBERED: usize = 64;

/// What a name takes besides its bytes: where it is, and what the allocator adds.
const OVERHEAD: usize = 32;

/// Names that are keys, and nothing else: what somebody else has put there is passed over.
#[derive(Debug, Clone)]
pub(super) enum Listing {
    /// A directory with nothing but files, in byte order.
    Files(Arc<[Box<str>]>),
    /// Any other: names in no order, and behind those of directories a `/`.
    Mixed(Vec<String>),
}

/// The names in directories, and in those that were listed lately.
#[derive(Debug)]
pub(super) struct Names {
    directories: Arc<Directories>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    folders: HashMap<PathBuf, Folder>,
    bytes: usize,
    /// How often something was asked for: the clock by which it is known what was not used for longest.
    asked: u64,
    /// Large directories that were read lately.
    lately: VecDeque<PathBuf>,
}

#[derive(Debug)]
struct Folder {
    names: Arc<[Box<str>]>,
    state: State,
    bytes: usize,
    used: u64,
}

/// What changes when a directory does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    additions: u64,
    modified: SystemTime,
}

impl Names {
    pub(super) fn new(directories: &Arc<Directories>) -> Self {
        Self { directories: Arc::clone(directories), kept: Mutex::default() }
    }

    /// What is in a directory, if there is one. Blocks.
    pub(super) fn read(&self, folder: &Path) -> io::Result<Option<Listing>> {
        // Before it is read: what is added meanwhile may be in it or not.
        let Some(state) = self.state(folder)? else { return Ok(None) };
        if let Some(names) = self.kept().get(folder, state) {
            return Ok(Some(Listing::Files(names)));
        }
        let Some(entries) = unless_gone(fs::read_dir(folder))? else { return Ok(None) };
        let listing = read(entries)?;
        if let Listing::Files(names) = &listing
            && names.len() >= FEW
            && self.state(folder)? == Some(state)
        {
            self.kept().offer(folder, state, names);
        }
        Ok(Some(listing))
    }

    fn state(&self, folder: &Path) -> io::Result<Option<State>> {
        let additions = self.directories.additions(folder);
        let Some(metadata) = unless_gone(fs::metadata(folder))? else { return Ok(None) };
        Ok(Some(State { additions, modified: metadata.modified()? }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, folder: &Path, state: State) -> Option<Arc<[Box<str>]>> {
        let Some(found) = self.folders.get_mut(folder).filter(|found| found.state == state) else {
            self.forget(folder);
            return None;
        };
        self.asked += 1;
        found.used = self.asked;
        Some(Arc::clone(&found.names))
    }

    /// Keeps names, if it is not the first time that they are read, in place of those that nobody has asked for.
    fn offer(&mut self, folder: &Path, state: State, names: &Arc<[Box<str>]>) {
        if !self.lately.iter().any(|read| read == folder) {
            self.lately.push_back(folder.to_owned());
            if self.lately.len() > REMEMBERED {
                self.lately.pop_front();
            }
            return;
        }
        let bytes = names.iter().map(|name| name.len() + OVERHEAD).sum();
        if bytes > MEMORY {
            return;
        }
        self.forget(folder);
        while self.bytes + bytes > MEMORY {
            let oldest = self.folders.iter().min_by_key(|(_, folder)| folder.used);
            let Some(oldest) = oldest.map(|(folder, _)| folder.clone()) else { break };
            self.forget(&oldest);
        }
        self.asked += 1;
        self.bytes += bytes;
        let kept = Folder { names: Arc::clone(names), state, bytes, used: self.asked };
        self.folders.insert(folder.to_owned(), kept);
    }

    fn forget(&mut self, folder: &Path) {
        if let Some(gone) = self.folders.remove(folder) {
            self.bytes -= gone.bytes;
        }
    }
}

fn read(entries: fs::ReadDir) -> io::Result<Listing> {
    let (mut files, mut directories) = (Vec::<Box<str>>::new(), Vec::new());
    for entry in entries {
        let entry = entry?;
        // Names that are no keys are staging files of earlier versions (`name#1`) or somebody else's.
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if Key::parse(name.as_str()).is_err() {
            continue;
        }
        // Some file systems are asked for it, and the entry may have been deleted since.
        let Some(kind) = unless_gone(entry.file_type())? else { continue };
        if kind.is_dir() {
            directories.push(format!("{name}/"));
        } else {
            files.push(name.into());
        }
    }
    if directories.is_empty() {
        files.sort_unstable();
        return Ok(Listing::Files(files.into()));
    }
    directories.extend(files.into_iter().map(String::from));
    Ok(Listing::Mixed(directories))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tried {
        root: tempfile::TempDir,
        directories: Arc<Directories>,
        names: Names,
    }

    impl Tried {
        fn with(folders: &[&str], files: usize) -> Self {
            let root = tempfile::tempdir().unwrap();
            let directories = Arc::new(Directories::below(&Arc::from(root.path())));
            let tried = Self { names: Names::new(&directories), directories, root };
            for folder in folders {
                for number in 0..files {
                    tried.add(folder, &format!("{number:05}"));
                }
            }
            tried
        }

        fn add(&self, folder: &str, name: &str) {
            let path = self.root.path().join(folder).join(name);
            self.directories.within(&path, || fs::write(&path, b"")).unwrap();
        }

        fn read(&self, folder: &str) -> Arc<[Box<str>]> {
            match self.names.read(&self.root.path().join(folder)).unwrap() {
                Some(Listing::Files(names)) => names,
                other => panic!("{other:?}"),
            }
        }

        /// Whether what is read twice is the same in memory.
        fn is_kept(&self, folder: &str) -> bool {
            Arc::ptr_eq(&self.read(folder), &self.read(folder))
        }
    }

    #[test]
    fn a_large_directory_that_is_read_again_is_kept() {
        let tried = Tried::with(&["a"], FEW);
        let first = tried.read("a");
        assert!(first.is_sorted() && first.len() == FEW);
        assert!(!Arc::ptr_eq(&first, &tried.read("a")), "nothing is kept of what is read once");
        assert!(tried.is_kept("a"));
        assert!(!Tried::with(&["a"], FEW - 1).is_kept("a"));
    }

    #[test]
    fn what_is_added_is_there_at_once_whatever_the_clock_says() {
        let tried = Tried::with(&["a"], FEW);
        for number in 0..100 {
            assert!(tried.read("a").len() == FEW + number && tried.read("a").len() == FEW + number);
            let modified = fs::metadata(tried.root.path().join("a")).unwrap().modified().unwrap();
            tried.add("a", &format!("more-{number}"));
            // A clock that has not moved on.
            fs::File::open(tried.root.path().join("a")).unwrap().set_modified(modified).unwrap();
        }
    }

    #[test]
    fn what_somebody_else_has_changed_is_seen() {
        let tried = Tried::with(&["a"], FEW);
        tried.read("a");
        assert!(tried.is_kept("a"));
        let folder = tried.root.path().join("a");
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(folder.join("by-hand"), b"").unwrap();
        assert_eq!(tried.read("a").len(), FEW + 1);
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::create_dir(folder.join("folder")).unwrap();
        let mixed = tried.names.read(&folder).unwrap();
        assert!(matches!(mixed, Some(Listing::Mixed(names)) if names.len() == FEW + 2));
        fs::remove_dir_all(&folder).unwrap();
        assert!(tried.names.read(&folder).unwrap().is_none());
    }

    #[test]
    fn memory_is_for_what_was_asked_for_lately() {
        let tried = Tried::with(&["a", "b", "c"], FEW);
        for folder in ["a", "b", "c"] {
            tried.read(folder);
            assert!(tried.is_kept(folder));
        }
        let used = tried.names.kept().bytes;
        assert_eq!(used, 3 * FEW * (5 + OVERHEAD));
        // As if there were memory for three of them.
        tried.names.kept().bytes = MEMORY;
        tried.read("a");
        tried.add("c", "more");
        assert!(tried.is_kept("c"));
        let mut kept: Vec<_> = tried.names.kept().folders.keys().cloned().collect();
        kept.sort();
        assert_eq!(kept, ["a", "c"].map(|folder| tried.root.path().join(folder)));
    }
}
