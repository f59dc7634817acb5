//! The record on disk. A commit is there for good before anybody hears of it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Builder, Database as Redb, DatabaseError, Durability, ReadableDatabase, ReadableTable};
use redb::{ReadOnlyTable, TableDefinition};

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

#[derive(Debug)]
pub(super) struct Database {
    redb: Redb,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let file =
            private_file(path).map_err(|error| OpenError::File { path: path.into(), source: error })?;
        let redb = FileBackend::new(file)
            .and_then(|file| Builder::new().set_cache_size(PAGE_CACHE).create_with_backend(file))
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.into() },
                error => OpenError::Database { path: path.into(), source: Box::new(error.into()) },
            })?;
        let database = Self { redb };
        database
            .prepare()
            .map_err(|error| OpenError::Database { path: path.into(), source: Box::new(error) })
            .and_then(|layout| match layout {
                CURRENT_LAYOUT => Ok(()),
                layout => Err(OpenError::Layout { path: path.into(), layout }),
            })?;
        Ok(database)
    }

    /// Makes the tables and tells the layout.
    fn prepare(&self) -> Result<u64, redb::Error> {
        let transaction = self.redb.begin_write()?;
        transaction.open_table(OBJECTS)?;
        let mut meta = transaction.open_table(META)?;
        let layout = meta.get(LAYOUT)?.map(|layout| layout.value());
        if layout.is_none() {
            meta.insert(LAYOUT, CURRENT_LAYOUT)?;
        }
        drop(meta);
        transaction.commit()?;
        Ok(layout.unwrap_or(CURRENT_LAYOUT))
    }

    /// All objects and the newest version.
    pub(super) fn load(&self, path: &Path) -> Result<(BTreeMap<Key, Arc<Object>>, u64), OpenError> {
        let database =
            |error: redb::Error| OpenError::Database { path: path.into(), source: Box::new(error) };
        let (table, version) = self.tables().map_err(database)?;
        let mut objects = BTreeMap::new();
        for entry in table.iter().map_err(|error| database(error.into()))? {
            let (key, json) = entry.map_err(|error| database(error.into()))?;
            let object = decode(key.value(), json.value())
                .ok_or_else(|| OpenError::Damaged { path: path.into(), key: key.value().to_owned() })?;
            objects.insert(object.key.clone(), Arc::new(object));
        }
        Ok((objects, version))
    }

    fn tables(&self) -> Result<(ReadOnlyTable<&'static str, &'static [u8]>, u64), redb::Error> {
        let transaction = self.redb.begin_read()?;
        let version = transaction.open_table(META)?.get(VERSION)?.map_or(0, |version| version.value());
        Ok((transaction.open_table(OBJECTS)?, version))
    }

    /// Writes everything or nothing, and returns when it is on the disk.
    pub(super) fn commit(&self, pending: &[Pending]) -> Result<(), redb::Error> {
        let Some(last) = pending.last() else { return Ok(()) };
        let mut transaction = self.redb.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for Pending { change, json } in pending {
                if change.deleted {
                    objects.remove(change.key().as_str())?;
                } else {
                    objects.insert(change.key().as_str(), json.as_slice())?;
                }
            }
            transaction.open_table(META)?.insert(VERSION, last.change.version)?;
        }
        transaction.commit()?;
        Ok(())
    }
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
