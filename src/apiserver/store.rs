//! The objects: read from memory, written to the disk.
//!
//! All objects are small, and there are thousands of them, not millions: they are kept in memory as a whole, and
//! the database is the record that they are loaded from. Reads never wait for the disk. Writes go through one thread
//! (see `writer.rs`), are on the disk before they are answered, and get one version each; the newest version is
//! part of the same commit.

mod change;
mod database;
mod file;
mod key;
mod state;
mod transaction;
mod window;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

use database::Database;
use state::State;
use writer::{Job, Reply, Writer};

pub(crate) use change::{Change, Object};
pub(crate) use database::CommitError;
pub(crate) use key::{Key, Range};
pub(crate) use state::Snapshot;
pub(crate) use transaction::Transaction;
pub(crate) use window::{TooOld, WindowSize};

/// Writes that may wait at a time. More of them wait for their turn without holding anything but their body.
const QUEUE: usize = 1024;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such folder, or no permission.
    #[error("cannot open the database {path}", path = .path.display())]
    File {
        /// The database.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Two servers with one database would each not know what the other has written.
    #[error("the database {path} is in use by another process", path = .path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// It is no database, or it cannot be read.
    #[error("cannot read the database {path}", path = .path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What the database says.
        source: Box<redb::Error>,
    },
    /// A newer program has written it.
    #[error("the database {path} has layout {layout}, which this program does not know", path = .path.display())]
    Layout {
        /// The database.
        path: PathBuf,
        /// What it says of itself.
        layout: u64,
    },
    /// An entry is not what this program writes.
    #[error("the entry {key} of the database {path} is damaged", path = .path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// After a failure it is not as this process left it: somebody else was there, and this process is to be started anew.
    #[error("the database has version {found} and was left with {committed}; start again")]
    Changed {
        /// Its version.
        found: u64,
        /// That of the last commit.
        committed: u64,
    },
    /// There is no thread to be had.
    #[error("cannot start the thread that writes")]
    Thread(#[source] std::io::Error),
}

/// Why a write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WriteError {
    /// The disk is full or broken.
    #[error("the database cannot be written")]
    Database(#[source] Arc<CommitError>),
    /// A bug: the write never came to an end.
    #[error("the write was given up")]
    Lost,
}

/// What has to be done apart from requests. It runs between commits.
pub(crate) trait Upkeep: Send {
    /// Whether these changes leave something to do.
    fn wanted(&self, changes: &[Arc<Change>]) -> bool;
    /// Does it.
    fn run(&mut self, transaction: &mut Transaction<'_>);
}

/// What the thread that writes shares with those who read.
#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    /// The newest version, for those who wait for the next.
    version: watch::Sender<u64>,
}

/// Whether a write is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Commit,
    /// Does all of it and takes it back.
    DryRun,
}

/// How to open a store.
pub(crate) struct StoreOptions {
    pub(crate) window: WindowSize,
    pub(crate) upkeep: Box<dyn Upkeep>,
    pub(crate) upkeep_interval: Duration,
}

#[derive(Debug)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    queue: Arc<Semaphore>,
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the database. The upkeep runs once before anybody reads.
    pub(crate) fn open(path: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let mut database = Database::open(path)?;
        let (objects, version) = database.load(path)?;
        let state = RwLock::new(State::new(objects, version, options.window));
        let shared = Arc::new(Shared { state, version: watch::Sender::new(version) });
        let StoreOptions { upkeep, upkeep_interval: interval, .. } = options;
        let mut writer = Writer { shared: Arc::clone(&shared), database, upkeep, interval };
        writer.keep_up(true, &[]);
        let (jobs, received) = channel();
        let thread = std::thread::Builder::new()
            .name("apiserver-writer".into())
            .spawn(move || writer.run(&received))
            .map_err(OpenError::Thread)?;
        Ok(Self { shared, queue: Arc::new(Semaphore::new(QUEUE)), jobs: Some(jobs), thread: Some(thread) })
    }

    pub(crate) fn version(&self) -> u64 {
        self.read(State::version)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.read(|state| state.get(key))
    }

    pub(crate) fn list(&self, range: &Range) -> Snapshot {
        self.read(|state| state.list(range))
    }

    /// As it was at `version`.
    pub(crate) fn list_at(&self, range: &Range, version: u64) -> Result<Snapshot, TooOld> {
        self.read(|state| state.list_at(range, version))
    }

    /// At most `limit` changes in `range` after a version, and the version that one has got to with them.
    pub(crate) fn changes(
        &self,
        after: u64,
        range: &Range,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, u64), TooOld> {
        self.read(|state| state.changes(after, range, limit))
    }

    /// Tells the newest version whenever there is one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Runs `action` when no other write does, and answers when its changes are on the disk. They are taken back
    /// when it fails, and in a dry run. It happens even when nobody waits for the answer any more.
    pub(crate) async fn write<T, E>(
        &self,
        mode: Mode,
        action: impl FnOnce(&mut Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        let place = Arc::clone(&self.queue).acquire_owned().await.map_err(|_| WriteError::Lost)?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |transaction| -> Reply {
            let mark = transaction.mark();
            let result = action(transaction);
            if result.is_err() || mode == Mode::DryRun {
                transaction.roll_back(mark);
            }
            Box::new(move |committed| {
                let _ = answer.send(committed.map_err(E::from).and(result));
                drop(place);
            })
        });
        self.jobs.as_ref().ok_or(WriteError::Lost)?.send(job).map_err(|_| WriteError::Lost)?;
        answered.await.unwrap_or_else(|_| Err(WriteError::Lost.into()))
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.shared.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Store {
    /// Waits for the writes under way: afterwards the database can be opened again.
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
