//! The record on disk. A commit is there for good before anybody hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Builder, Database as Redb, DatabaseError, Durability, ReadableDatabase, ReadableTable};
use redb::{ReadOnlyTable, TableDefinition, TableError};

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
    open: Box<dyn Fn() -> Result<Redb, OpenError> + Send>,
    /// `None` after a failure: the library then wants to be opened anew.
    redb: Option<Redb>,
    /// What commits that failed would have changed, or did: only the next one settles it.
    undecided: BTreeSet<Key>,
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
        Self::opened_by(Box::new(move || open(&path)))
    }

    fn opened_by(open: Box<dyn Fn() -> Result<Redb, OpenError> + Send>) -> Result<Self, OpenError> {
        let redb = open()?;
        Ok(Self { open, redb: Some(redb), undecided: BTreeSet::new() })
    }

    /// All objects and the newest version.
    pub(super) fn load(&self, path: &Path) -> Result<(BTreeMap<Key, Arc<Object>>, u64), OpenError> {
        let database =
            |error: redb::Error| OpenError::Database { path: path.into(), source: Box::new(error) };
        let (table, version) = match &self.redb {
            Some(redb) => tables(redb),
            None => tables(&(self.open)()?),
        }
        .map_err(database)?;
        let mut objects = BTreeMap::new();
        for entry in table.iter().map_err(|error| database(error.into()))? {
            let (key, json) = entry.map_err(|error| database(error.into()))?;
            let object = decode(key.value(), json.value())
                .ok_or_else(|| OpenError::Damaged { path: path.into(), key: key.value().to_owned() })?;
            objects.insert(object.key.clone(), Arc::new(object));
        }
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
        let redb = match self.redb.take() {
            Some(redb) => redb,
            None => (self.open)().map_err(CommitError::Open)?,
        };
        let settled =
            self.undecided.iter().map(|key| (key, kept(key).map(|object| object.value.to_string())));
        let settled: Vec<_> = settled.collect();
        let before = settled.iter().map(|(key, json)| (*key, json.as_ref().map(String::as_bytes)));
        let changes = pending
            .iter()
            .map(|Pending { change, json }| (change.key(), (!change.deleted).then_some(json.as_slice())));
        match write(&redb, before.chain(changes), last.change.version) {
            Ok(()) => {
                self.undecided.clear();
                self.redb = Some(redb);
                Ok(())
            }
            Err(error) => {
                self.undecided.extend(pending.iter().map(|pending| pending.change.key().clone()));
                Err(CommitError::Write(error))
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("redb", &self.redb).finish_non_exhaustive()
    }
}

fn open(path: &Path) -> Result<Redb, OpenError> {
    let database = |error: redb::Error| OpenError::Database { path: path.into(), source: Box::new(error) };
    let file = private_file(path).map_err(|error| OpenError::File { path: path.into(), source: error })?;
    let opened = FileBackend::new(file)
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

/// Opens the file, which only its owner may read: secrets are in it.
fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn decode(key: &str, json: &[u8]) -> Option<Object> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let version = value.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()?;
    Some(Object { key: Key::from_stored(key), value, version, size: json.len() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use serde_json::json;

    use super::*;
    use crate::apiserver::store::Change;

    /// A file of which a sync says that it failed, though all is on the disk, while it is told to.
    #[derive(Debug)]
    struct Failing(FileBackend, Arc<AtomicBool>);

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
            if self.1.load(Ordering::Relaxed) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.0.write(offset, data)
        }
    }

    fn change(name: &str, version: u64, deleted: bool) -> Pending {
        let value = json!({ "metadata": { "name": name, "resourceVersion": version.to_string() } });
        let json = value.to_string().into_bytes();
        let key = Key::from_stored(name);
        let object = Arc::new(Object { key, value, version, size: json.len() });
        Pending { change: Change { version, object, previous: None, deleted }, json }
    }

    #[test]
    fn what_failed_is_taken_back_by_what_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resources.redb");
        drop(open(&path).unwrap());
        let fails = Arc::new(AtomicBool::new(false));
        let failing = Arc::clone(&fails);
        let opening = path.clone();
        let mut database = Database::opened_by(Box::new(move || {
            let file = FileBackend::new(private_file(&opening).unwrap()).unwrap();
            // It is opened whatever happens then.
            let fails = failing.swap(false, Ordering::Relaxed);
            let redb = Builder::new().create_with_backend(Failing(file, Arc::clone(&failing))).unwrap();
            failing.store(fails, Ordering::Relaxed);
            Ok(redb)
        }))
        .unwrap();
        let kept = change("kept", 1, false);
        let seen = Arc::clone(&kept.change.object);
        let everybody_sees = |key: &Key| (*key == seen.key).then(|| Arc::clone(&seen));
        database.commit(&[kept], everybody_sees).unwrap();
        for failed in [change("kept", 2, true), change("new", 2, false)] {
            fails.store(true, Ordering::Relaxed);
            let error = database.commit(&[failed], everybody_sees).unwrap_err();
            assert!(error.is_full(), "{error}");
            fails.store(false, Ordering::Relaxed);
        }
        database.commit(&[change("next", 2, false)], everybody_sees).unwrap();
        drop(database);
        let (objects, version) = Database::open(&path).unwrap().load(&path).unwrap();
        let names: Vec<_> = objects.keys().map(Key::as_str).collect();
        assert_eq!((names, version), (vec!["kept", "next"], 2));
    }
}
