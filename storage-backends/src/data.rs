//! Data objects: large, written once as a stream, suspended and resumed across requests and processes.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Where a suspended writer stands. It is kept, as JSON, by whoever wants to resume it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterState {
    /// The key of the data object.
    pub key: String,
    /// Bytes that are safe with the store: the writer resumes after them.
    pub length: u64,
    /// The multipart upload, on stores that have such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multipart: Option<MultipartState>,
}

/// A multipart upload that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultipartState {
    /// The server's name for it.
    pub id: String,
    /// The server's name for each part, in order.
    pub parts: Vec<String>,
}

/// What became of a writer that was paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paused {
    /// It can be resumed in the same object.
    Open(WriterState),
    /// The object is sealed at this many bytes; further bytes need another object.
    Sealed(u64),
}

/// What a suspended writer became.
#[derive(Debug)]
pub enum Resumed {
    /// A writer that goes on in the same object.
    Open(Box<dyn DataWriter>),
    /// The store cannot go on there. The object is sealed at this many bytes (zero: there is no object).
    Sealed(u64),
}

/// Writes one data object. Dropping it leaves what was written to be resumed or swept up.
#[async_trait]
pub trait DataWriter: std::fmt::Debug + Send {
    /// Appends `pieces`. Returns when the writer can take more, so memory stays bounded: at most a few
    /// parts (see the backend) are held, whatever the size of the object.
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()>;

    /// Bytes taken so far.
    fn length(&self) -> u64;

    /// Makes everything written so far safe and says how to come back to this point, or `None` where the store
    /// has nothing to come back to yet.
    async fn checkpoint(&mut self) -> Result<Option<WriterState>>;

    /// Ends a run of writes, as [`checkpoint`](Self::checkpoint) does, giving up the memory and the handles.
    async fn pause(self: Box<Self>) -> Result<Paused>;

    /// Publishes the object, durably, and says how many bytes it has.
    async fn seal(self: Box<Self>) -> Result<u64>;

    /// Gives up: nothing of the object remains.
    async fn discard(self: Box<Self>) -> Result<()>;
}
