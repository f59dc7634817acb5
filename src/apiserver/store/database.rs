//! The record on disk. A commit is there for good before anybody hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database as Redb, DatabaseError, Durability, ReadableDatabase, ReadableTable};
use redb::{ReadOnlyTable, TableDefinition, TableError};

use super::file::{self, DatabaseFile, SyncFailed};
use super::transaction::Pending;
use super::{Key, Object, OpenError};

/// Objects as JSON, by their keys.
const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
/// What is not an object: the newest version and the layout.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const VERSION: &str = "resourceVersion";
const LAYOUT: &str = "layout";
/// Of the tables above, so that a later program can tell.
const CURRENT_LAYOUT: u64 = 1;
/// Everything is read once, at the start: a page cache would only be a second copy.
const PAGE_CACHE: usize = 4 << 20;

pub(super) struct Database {
    open: Box<Open>,
    /// `None` only when it could not be opened again. One that has failed is kept until then, for its lock.
    redb: Option<Redb>,
    sync_failed: SyncFailed,
    /// The version of the last commit that succeeded.
    committed: u64,
    /// Of commits that failed since, what they would have changed, or did, and their versions.
    undecided: BTreeSet<Key>,
    failed: BTreeSet<u64>,
}

/// Opens the file, for the first time or again.
type Open = dyn Fn(Occasion, &SyncFailed) -> Result<Redb, OpenError> + Send;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Start,
    Again,
}

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// The disk is full or broken.
    #[error(transparent)]
    Write(redb::Error),
    /// The same, and the file cannot be opened since then.
    #[error(transparent)]
    Open(OpenError),
}

impl CommitError {
    /// Whether there is no space left, so that it can be done when there is.
    pub(crate) fn is_full(&self) -> bool {
        let error = match self {
            Self::Write(redb::Error::Io(error)) | Self::Open(OpenError::File { source: error, .. }) => error,
            Self::Open(OpenError::Database { source, .. }) => match source.as_ref() {
                redb::Error::Io(error) => error,
                _ => return false,
            },
            _ => return false,
        };
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let path = path.to_owned();
        Self::opened_by(Box::new(move |occasion, sync_failed| open(&path, occasion, sync_failed)))
    }

    fn opened_by(open: Box<Open>) -> Result<Self, OpenError> {
        let sync_failed = SyncFailed::default();
        let redb = open(Occasion::Start, &sync_failed)?;
        let (undecided, failed) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { open, redb: Some(redb), sync_failed, committed: 0, undecided, failed })
    }

    /// All objects and the newest version.
    pub(super) fn load(&mut self, path: &Path) -> Result<(BTreeMap<Key, Arc<Object>>, u64), OpenError> {
        let database =
            |error: redb::Error| OpenError::Database { path: path.into(), source: Box::new(error) };
        let Some(redb) = &self.redb else { return Err(database(redb::Error::PreviousIo)) };
        let (table, version) = tables(redb).map_err(database)?;
        let mut objects = BTreeMap::new();
        for entry in table.iter().map_err(|error| database(error.into()))? {
            let (key, json) = entry.map_err(|error| database(error.into()))?;
            let object = decode(key.value(), json.value())
                .ok_or_else(|| OpenError::Damaged { path: path.into(), key: key.value().to_owned() })?;
            objects.insert(object.key.clone(), Arc::new(object));
        }
        self.committed = version;
        Ok((objects, version))
    }

    /// Writes everything or nothing, and returns when it is on the disk. What `kept` gives is what everybody sees of a key.
    ///
    /// Of a commit that failed nobody knows whether it is on the disk. The next one takes it back where it is.
    pub(super) fn commit(
        &mut self,
        pending: &[Pending],
        kept: impl Fn(&Key) -> Option<Arc<Object>>,
    ) -> Result<(), CommitError> {
        let Some(last) = pending.last() else { return Ok(()) };
        // Not after a sync that failed: see `file.rs`.
        if !self.failed.is_empty() && !self.sync_failed.has() {
            self.open_again().map_err(CommitError::Open)?;
        }
        let Some(redb) = &self.redb else { return Err(CommitError::Write(redb::Error::PreviousIo)) };
        let settled =
            self.undecided.iter().map(|key| (key, kept(key).map(|object| object.value.to_string())));
        let settled: Vec<_> = settled.collect();
        let before = settled.iter().map(|(key, json)| (*key, json.as_ref().map(String::as_bytes)));
        let changes = pending
            .iter()
            .map(|Pending { change, json }| (change.key(), (!change.deleted).then_some(json.as_slice())));
        match write(redb, before.chain(changes), last.change.version) {
            Ok(()) => {
                self.committed = last.change.version;
                self.undecided.clear();
                self.failed.clear();
                Ok(())
            }
            Err(error) => {
                self.failed.insert(last.change.version);
                self.undecided.extend(pending.iter().map(|pending| pending.change.key().clone()));
                Err(CommitError::Write(error))
            }
        }
    }

    /// Opens the file again, which must be as the commits up to now have left it: whoever was there meanwhile is not written over.
    fn open_again(&mut self) -> Result<(), OpenError> {
        self.redb = None;
        let redb = (self.open)(Occasion::Again, &self.sync_failed)?;
        let found = tables(&redb).map(|(_, version)| version).unwrap_or_default();
        if found == self.committed {
            // Nothing of what failed is there.
            self.undecided.clear();
            self.failed.clear();
        } else if !self.failed.contains(&found) {
            return Err(OpenError::Changed { found, committed: self.committed });
        }
        self.redb = Some(redb);
        Ok(())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("redb", &self.redb).finish_non_exhaustive()
    }
}

fn open(path: &Path, occasion: Occasion, sync_failed: &SyncFailed) -> Result<Redb, OpenError> {
    let database = |error: redb::Error| OpenError::Database { path: path.into(), source: Box::new(error) };
    let unopened = |source| OpenError::File { path: path.into(), source };
    let file = file::private(path, occasion == Occasion::Start).map_err(unopened)?;
    if occasion == Occasion::Again && file.metadata().map_err(unopened)?.len() == 0 {
        return Err(unopened(ErrorKind::UnexpectedEof.into()));
    }
    let opened = DatabaseFile::new(file, sync_failed.clone())
        .and_then(|file| Builder::new().set_cache_size(PAGE_CACHE).create_with_backend(file));
    let redb = opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.into() },
        error => database(error.into()),
    })?;
    match prepare(&redb).map_err(database)? {
        CURRENT_LAYOUT => Ok(redb),
        layout => Err(OpenError::Layout { path: path.into(), layout }),
    }
}

/// Makes the tables where there are none, and tells the layout. Where there are, nothing is written: there may be no space.
fn prepare(redb: &Redb) -> Result<u64, redb::Error> {
    match redb.begin_read()?.open_table(META) {
        Ok(meta) => {
            if let Some(layout) = meta.get(LAYOUT)? {
                return Ok(layout.value());
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let transaction = redb.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(META)?.insert(LAYOUT, CURRENT_LAYOUT)?;
    transaction.commit()?;
    Ok(CURRENT_LAYOUT)
}

fn tables(redb: &Redb) -> Result<(ReadOnlyTable<&'static str, &'static [u8]>, u64), redb::Error> {
    let transaction = redb.begin_read()?;
    let version = transaction.open_table(META)?.get(VERSION)?.map_or(0, |version| version.value());
    Ok((transaction.open_table(OBJECTS)?, version))
}

/// Objects by their keys, `None` where there is none any more, and the newest version.
fn write<'a>(
    redb: &Redb,
    objects: impl Iterator<Item = (&'a Key, Option<&'a [u8]>)>,
    version: u64,
) -> Result<(), redb::Error> {
    let mut transaction = redb.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(OBJECTS)?;
        for (key, json) in objects {
            match json {
                Some(json) => drop(table.insert(key.as_str(), json)?),
                None => drop(table.remove(key.as_str())?),
            }
        }
        transaction.open_table(META)?.insert(VERSION, version)?;
    }
    transaction.commit()?;
    Ok(())
}

fn decode(key: &str, json: &[u8]) -> Option<Object> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let version = value.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()?;
    Some(Object { key: Key::from_stored(key), value, version, size: json.len() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use serde_json::json;

    use super::*;
    use crate::apiserver::store::Change;

    /// When a file says that it fails.
    #[derive(Debug, Clone, Default)]
    struct Trouble {
        /// There is no space for what is written.
        writing: Arc<AtomicBool>,
        /// All is there, and nobody knows.
        syncing: Arc<AtomicBool>,
    }

    #[derive(Debug)]
    struct Failing(DatabaseFile, Trouble);

    impl StorageBackend for Failing {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> std::io::Result<()> {
            self.0.sync_data()?;
            if self.1.syncing.load(Ordering::Relaxed) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            if self.1.writing.load(Ordering::Relaxed) {
                return Err(ErrorKind::StorageFull.into());
            }
            self.0.write(offset, data)
        }
    }

    /// A database that gets into trouble once it is open, in a folder of its own.
    fn troubled() -> (tempfile::TempDir, PathBuf, Trouble, Database) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resources.redb");
        drop(Database::open(&path).unwrap());
        let trouble = Trouble::default();
        let (opening, troubling) = (path.clone(), trouble.clone());
        let mut database = Database::opened_by(Box::new(move |occasion, sync_failed| {
            let waiting = [&troubling.writing, &troubling.syncing]
                .map(|trouble| trouble.swap(false, Ordering::Relaxed));
            let path = opening.clone();
            let file = file::private(&path, occasion == Occasion::Start)
                .map_err(|source| OpenError::File { path, source })?;
            let backend = Failing(DatabaseFile::new(file, sync_failed.clone()).unwrap(), troubling.clone());
            let redb = Builder::new().create_with_backend(backend).unwrap();
            troubling.writing.store(waiting[0], Ordering::Relaxed);
            troubling.syncing.store(waiting[1], Ordering::Relaxed);
            Ok(redb)
        }))
        .unwrap();
        database.commit(&[change("kept", 1, false)], nothing).unwrap();
        (folder, path, trouble, database)
    }

    fn change(name: &str, version: u64, deleted: bool) -> Pending {
        let value = json!({ "metadata": { "name": name, "resourceVersion": version.to_string() } });
        let json = value.to_string().into_bytes();
        let key = Key::from_stored(name);
        let object = Arc::new(Object { key, value, version, size: json.len() });
        Pending { change: Change { version, object, previous: None, deleted }, json }
    }

    fn nothing(_: &Key) -> Option<Arc<Object>> {
        None
    }

    /// What everybody sees: the first object.
    fn kept(key: &Key) -> Option<Arc<Object>> {
        let Pending { change, .. } = change("kept", 1, false);
        (*key == change.object.key).then_some(change.object)
    }

    /// Commits where there is no space.
    fn refused(database: &mut Database, trouble: &Trouble, pending: &[Pending]) -> CommitError {
        trouble.writing.store(true, Ordering::Relaxed);
        let error = database.commit(pending, kept).unwrap_err();
        trouble.writing.store(false, Ordering::Relaxed);
        error
    }

    fn stored(database: Database, path: &Path) -> (Vec<String>, u64) {
        drop(database);
        let (objects, version) = Database::open(path).unwrap().load(path).unwrap();
        (objects.keys().map(|key| key.as_str().to_owned()).collect(), version)
    }

    #[test]
    fn when_there_is_space_again_it_goes_on() {
        let (_folder, path, trouble, mut database) = troubled();
        for failed in [vec![change("kept", 2, true), change("new", 3, false)], vec![change("new", 2, false)]]
        {
            assert!(refused(&mut database, &trouble, &failed).is_full());
        }
        database.commit(&[change("next", 2, false)], kept).unwrap();
        database.commit(&[change("more", 3, false)], kept).unwrap();
        assert_eq!(
            stored(database, &path),
            (vec!["kept".to_owned(), "more".to_owned(), "next".to_owned()], 3)
        );
    }

    #[test]
    fn what_failed_and_is_there_is_taken_back_by_what_comes_next() {
        let (_folder, path, trouble, mut database) = troubled();
        trouble.syncing.store(true, Ordering::Relaxed);
        for failed in
            [vec![change("kept", 2, true), change("new", 3, false)], vec![change("other", 2, false)]]
        {
            assert!(database.commit(&failed, kept).unwrap_err().is_full());
        }
        trouble.syncing.store(false, Ordering::Relaxed);
        database.commit(&[change("other", 2, false)], kept).unwrap();
        assert_eq!(stored(database, &path), (vec!["kept".to_owned(), "other".to_owned()], 2));
    }

    #[test]
    fn after_a_sync_that_failed_nothing_is_written() {
        let (_folder, path, trouble, mut database) = troubled();
        refused(&mut database, &trouble, &[change("new", 2, false)]);
        database.sync_failed.set();
        for _ in 0..2 {
            let error = database.commit(&[change("next", 2, false)], kept).unwrap_err();
            assert!(matches!(error, CommitError::Write(redb::Error::PreviousIo)), "{error}");
        }
        assert_eq!(stored(database, &path), (vec!["kept".to_owned()], 1));
    }

    #[test]
    fn a_file_that_is_gone_is_not_made_anew() {
        let (_folder, path, trouble, mut database) = troubled();
        refused(&mut database, &trouble, &[change("new", 2, false)]);
        fs::rename(&path, path.with_extension("moved")).unwrap();
        let error = database.commit(&[change("next", 2, false)], kept).unwrap_err();
        assert!(matches!(error, CommitError::Open(OpenError::File { .. })), "{error}");
        assert!(!path.exists());
        fs::rename(path.with_extension("moved"), &path).unwrap();
        database.commit(&[change("next", 2, false)], kept).unwrap();
        assert_eq!(stored(database, &path), (vec!["kept".to_owned(), "next".to_owned()], 2));
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_is_not_written_over() {
        let (_folder, path, trouble, mut database) = troubled();
        refused(&mut database, &trouble, &[change("new", 2, false)]);
        let other = path.with_extension("other");
        fs::copy(&path, &other).unwrap();
        let mut second = Database::open(&other).unwrap();
        second.load(&other).unwrap();
        second.commit(&[change("theirs", 7, false)], nothing).unwrap();
        drop(second);
        fs::rename(&other, &path).unwrap();
        for _ in 0..2 {
            let error = database.commit(&[change("next", 2, false)], kept).unwrap_err();
            assert!(
                matches!(error, CommitError::Open(OpenError::Changed { found: 7, committed: 1 })),
                "{error}"
            );
        }
        assert_eq!(stored(database, &path).1, 7);
    }
}
