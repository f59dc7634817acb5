//! A directory as a store.
//!
//! What somebody is told of survives a power cut: the bytes of a file are synced before it has its name, the name before the
//! answer, and with it the names of all folders above. That holds for what is read too. Whoever reads what another request is
//! just writing waits until it is durable; and what an earlier process has left behind, killed before it could sync it, is made
//! durable when the directory is opened. `object_store`'s local filesystem does not go as far, so this is our own.
//!
//! One process owns the directory, by a lock on `dvcr.lock`, because compare-and-swap is a lock in memory.

mod data;
mod list;
mod names;
mod publish;
mod read;
mod reserve;
mod sync;

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use self::names::Names;
use self::publish::Publisher;
use self::reserve::Reserve;
use self::sync::Directories;
use crate::error::is_out_of_space;
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
    publisher: Arc<Publisher>,
    directories: Arc<Directories>,
    names: Arc<Names>,
    reserve: Arc<Reserve>,
    locks: KeyLocks,
    /// Held open for its lock, which the operating system drops with the process.
    _owner: File,
}

impl Filesystem {
    /// The lock file. It is no key: listings begin below a folder.
    const OWNER: &'static str = "dvcr.lock";

    /// Where small objects are written before they have their names. It is no key either.
    const STAGING: &'static str = "dvcr.staging";

    /// What takes space for when there is no other. No key either.
    const RESERVE: &'static str = "dvcr.reserve";

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
        let publisher = Publisher::open(root.join(Self::STAGING)).map_err(fail)?;
        // A process that was killed may have left what it did not sync, and whoever sees it will rely on it.
        sync::sync_all(&root).map_err(fail)?;
        let reserve = Reserve::open(root.join(Self::RESERVE), &root).map_err(fail)?;
        let root: Arc<Path> = root.into();
        let directories = Arc::new(Directories::below(&root));
        Ok(Self {
            reserve: Arc::new(reserve),
            publisher: Arc::new(publisher),
            names: Arc::new(Names::new(&directories)),
            directories,
            locks: KeyLocks::new(),
            _owner: owner,
            root,
        })
    }

    async fn load(&self, key: &Key) -> Result<Object> {
        let path = self.path(key);
        let bytes: Bytes =
            blocking(move || std::fs::read(path)).await.map_err(|e| failed("read", key, e))?.into();
        Ok(Object { version: Version(Stamp::Content(bytes.clone())), bytes })
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
        let guard = self.locks.lock(key).await;
        if let Condition::Unchanged(version) = &condition {
            match self.load(key).await {
                Ok(current) if current.version == *version => {}
                Ok(_) | Err(Error::NotFound { .. }) => return Err(Error::Changed { key: key.clone() }),
                Err(error) => return Err(error),
            }
        }
        let (path, replace) = (self.path(key), condition != Condition::Absent);
        let (publisher, directories) = (Arc::clone(&self.publisher), Arc::clone(&self.directories));
        let (reserve, content) = (Arc::clone(&self.reserve), bytes.clone());
        let outcome = blocking(move || {
            let publish = || publisher.publish(&directories, &path, &content, replace);
            let outcome = publish()
                .or_else(|error| if is_out_of_space(&error) { reserve.give_to(publish) } else { Err(error) });
            drop(guard);
            outcome
        })
        .await;
        match outcome {
            Ok(()) => Ok(Version(Stamp::Content(bytes))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !replace => {
                // It may stem from an attempt whose last sync failed, and the caller will rely on it.
                let path = self.path(key);
                blocking(move || sync::sync_parent(&path)).await.map_err(|e| failed("sync", key, e))?;
                Err(Error::AlreadyExists { key: key.clone() })
            }
            Err(error) => Err(Error::unavailable("write", key.as_str(), error)),
        }
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        let found = self.load(key).await;
        if self.locks.is_free(key) {
            return found;
        }
        // Somebody is writing, perhaps this very object: what was read may not survive a power cut yet.
        let _nobody_writes = self.locks.share(key).await;
        self.load(key).await
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        read::read(self.path(key), key.clone(), range).await
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        list::list(Arc::clone(&self.root), Arc::clone(&self.names), prefix, after).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let guard = self.locks.lock(key).await;
        let path = self.path(key);
        let deleted = blocking(move || {
            let deleted = sync::remove_file(&path);
            drop(guard);
            deleted
        });
        deleted.await.map_err(|e| failed("delete", key, e))
    }

    async fn room(&self) -> Result<()> {
        let reserve = Arc::clone(&self.reserve);
        if blocking(move || reserve.fill()).await { Ok(()) } else { Err(no_room()) }
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        let (directories, reserve) = (Arc::clone(&self.directories), Arc::clone(&self.reserve));
        let writer = data::FileWriter::create(self.path(key), key.clone(), &directories, reserve).await?;
        Ok(Box::new(writer))
    }

    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        let key = data_key(state)?;
        let writer =
            data::FileWriter::resume(self.path(&key), key, state.length, Arc::clone(&self.reserve)).await?;
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

/// What was found; nothing, if there is no such file or directory.
fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// There is space for nothing but what makes space.
fn no_room() -> Error {
    Error::Full { source: Box::new(io::Error::from(io::ErrorKind::StorageFull)) }
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
