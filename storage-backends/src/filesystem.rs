//! A directory as a store.
//!
//! Small objects are staged, synced and published by `object_store`'s local filesystem with its fsync
//! option: file first, then directory, then success. What it does not do is done here, in the files beside
//! this one: listing in order (it lists in directory order), deletes that survive a power cut, compare-and-swap,
//! reads in large pieces (it reads 8 KiB at a time) and data files that are appended to across requests.
//!
//! One process owns the directory, by a lock on `dvcr.lock`, because compare-and-swap is a lock in memory.

mod data;
mod list;
mod read;
mod sync;

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};

use crate::lock::KeyLocks;
use crate::store::Stamp;
use crate::{
    ByteStream, Capabilities, Condition, DataWriter, EntryStream, Error, Key, Object, Result, Resumed, Store,
    Version, WriterState,
};

/// A store in a directory of the local filesystem.
#[derive(Debug)]
pub struct Filesystem {
    root: Arc<Path>,
    publisher: LocalFileSystem,
    locks: KeyLocks,
    /// Held open for its lock, which the operating system drops with the process.
    _owner: File,
}

impl Filesystem {
    /// The lock file. It is no key: listings begin below a folder.
    const OWNER: &'static str = "dvcr.lock";

    /// Opens the directory `root`, creating it if needed, and takes possession of it.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        blocking(move || Self::open_blocking(&root)).await
    }

    fn open_blocking(root: &Path) -> Result<Self> {
        let fail = |source: io::Error| Error::Unusable {
            what: format!("cannot use {} as the data directory: {source}", root.display()),
            source: None,
        };
        sync::create_dir_all(root).map_err(fail)?;
        let root = root.canonicalize().map_err(fail)?;
        let owner = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join(Self::OWNER))
            .map_err(fail)?;
        owner.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::unusable(format!(
                "another process is using the data directory {}; stop it, or name another directory",
                root.display()
            )),
            TryLockError::Error(source) => fail(source),
        })?;
        let publisher = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| Error::unavailable("open", root.display().to_string(), source))?
            .with_fsync(true);
        Ok(Self { root: root.into(), publisher, locks: KeyLocks::new(), _owner: owner })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }
}

#[async_trait]
impl Store for Filesystem {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "filesystem",
            shared: false,
            appends: true,
            max_data_object: u64::MAX,
            checkpoint_unit: 1,
            min_pause: None,
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        let _guard = self.locks.lock(key).await;
        let mode = match condition {
            Condition::None => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(version) => {
                match self.get(key).await {
                    Ok(current) if current.version == version => {}
                    Ok(_) | Err(Error::NotFound { .. }) => return Err(Error::Changed { key: key.clone() }),
                    Err(error) => return Err(error),
                }
                PutMode::Overwrite
            }
        };
        let payload = PutPayload::from_bytes(bytes.clone());
        match self.publisher.put_opts(&key.to_path(), payload, PutOptions::from(mode)).await {
            Ok(_) => Ok(Version(Stamp::Content(bytes))),
            Err(object_store::Error::AlreadyExists { .. }) => {
                // It may stem from an attempt whose last sync failed, and the caller will rely on it.
                let path = self.path(key);
                blocking(move || sync::sync_parent(&path)).await.map_err(|e| failed("sync", key, e))?;
                Err(Error::AlreadyExists { key: key.clone() })
            }
            Err(error) => Err(Error::from_object_store("write", key, error)),
        }
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        let path = self.path(key);
        let bytes: Bytes =
            blocking(move || std::fs::read(path)).await.map_err(|e| failed("read", key, e))?.into();
        Ok(Object { version: Version(Stamp::Content(bytes.clone())), bytes })
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        read::read(self.path(key), key.clone(), range).await
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        list::list(Arc::clone(&self.root), prefix, after).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let _guard = self.locks.lock(key).await;
        let path = self.path(key);
        blocking(move || sync::remove_file(&path)).await.map_err(|e| failed("delete", key, e))
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        let writer = data::FileWriter::create(self.path(key), key.clone()).await?;
        Ok(Box::new(writer))
    }

    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        let key = data_key(state)?;
        let writer = data::FileWriter::resume(self.path(&key), key, state.length).await?;
        Ok(Resumed::Open(Box::new(writer)))
    }

    async fn discard_data(&self, state: &WriterState) -> Result<()> {
        self.delete(&data_key(state)?).await
    }
}

/// The key that a suspended writer names; the state comes back from outside this process.
fn data_key(state: &WriterState) -> Result<Key> {
    Key::parse(state.key.as_str()).map_err(|invalid| Error::unavailable("resume", state.key.clone(), invalid))
}

fn failed(operation: &'static str, key: &Key, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        Error::NotFound { key: key.clone() }
    } else {
        Error::unavailable(operation, key.as_str(), error)
    }
}

/// Runs file operations off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody will poll this again.
            Err(_) => std::future::pending().await,
        },
    }
}
