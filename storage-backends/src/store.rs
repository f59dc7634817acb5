//! [`Store`]: the few operations that the engine needs, each with its guarantee.

use std::fmt::Debug;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{Capabilities, DataWriter, Key, Result, Resumed, WriterState};

/// The bytes of an object, in order. The size of the pieces is the backend's choice.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Entries of a listing.
pub type EntryStream = BoxStream<'static, Result<Entry>>;

/// The state of a small object, opaque to callers. Equal versions mean equal bytes, and the other way round: who must
/// tell a later write of the same bytes from an earlier one has to make the bytes differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub(crate) Stamp);

/// How a backend recognises a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// The server's `ETag`.
    ETag(String),
    /// The bytes themselves. On a filesystem neither inode nor time will do: an inode is reused and the
    /// clock of the kernel ticks in milliseconds, so two states within one tick could look the same.
    Content(Bytes),
}

/// When a [`Store::put`] may take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Always; the last writer wins.
    None,
    /// Only where there is no object. Of any number of racing writers exactly one succeeds.
    Absent,
    /// Only where the object still has this version.
    Unchanged(Version),
}

/// A small object as it was read.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// What to name in [`Condition::Unchanged`] to replace just this state of it.
    pub version: Version,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key, not only its last segment.
    pub key: Key,
    /// Bytes in the object.
    pub size: u64,
    /// When it was last written, by the clock of the store.
    pub modified: SystemTime,
}

/// A place that keeps objects by key.
///
/// A reply may be lost after the operation took effect, so an error says nothing about the state of the
/// store. Unconditional operations may simply be repeated. A conditional put that fails its condition may
/// have met the caller's own write, also at the first attempt, because backends repeat below: read the object
/// to know.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// What this store can do beyond the contract.
    fn capabilities(&self) -> Capabilities;

    /// Fails with [`Full`](crate::Error::Full) where the store has space for nothing but what makes space. Whoever brings something new
    /// asks for it first; whoever deletes does not.
    async fn room(&self) -> Result<()>;

    /// Writes a small object, whole or not at all, durable when this returns.
    ///
    /// Fails with [`AlreadyExists`](crate::Error::AlreadyExists) or [`Changed`](crate::Error::Changed) when
    /// the condition does not hold.
    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version>;

    /// Reads a small object whole.
    async fn get(&self, key: &Key) -> Result<Object>;

    /// Reads `range` of an object as a stream. The range must lie within the object: a stream that meets
    /// the end too early fails.
    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream>;

    /// Lists the objects below the folder `prefix`, beginning after the key `after` (which need not exist).
    ///
    /// Objects that lie directly in the folder come in byte order. Where objects and sub-folders are
    /// mixed, servers differ: one sorts `a/x` before `a!`, another behind. So what has to be in order is
    /// kept in one flat folder.
    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream;

    /// Deletes an object, durably. Deleting what is not there succeeds.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Begins a data object under a key that nobody has used.
    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>>;

    /// Takes up a writer where [`DataWriter::checkpoint`] or [`DataWriter::pause`] left it, perhaps in another process. Bytes
    /// written after that moment are dropped.
    ///
    /// Fails with [`DataLost`](crate::Error::DataLost) when the bytes are not there any more.
    async fn resume_data(&self, state: &WriterState) -> Result<Resumed>;

    /// Frees what a suspended writer holds. Discarding what is gone succeeds.
    async fn discard_data(&self, state: &WriterState) -> Result<()>;
}
