//! [`Counting`]: a store that counts the bytes that pass through it, to prove what is never copied.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::{
    ByteStream, Capabilities, Condition, DataWriter, EntryStream, Key, Object, Paused, Result, Resumed,
    Store, Version, WriterState,
};

/// Bytes that went to and came from a store.
#[derive(Debug, Default)]
pub struct Tally {
    /// Written to data objects.
    pub data_written: AtomicU64,
    /// Read by range.
    pub data_read: AtomicU64,
    /// How often something was read by range.
    pub data_reads: AtomicU64,
    /// Written to small objects.
    pub small_written: AtomicU64,
    /// Read from small objects.
    pub small_read: AtomicU64,
}

/// A store that counts.
#[derive(Debug)]
pub struct Counting {
    inner: Arc<dyn Store>,
    tally: Arc<Tally>,
}

impl Counting {
    /// Counts what passes to and from `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, tally: Arc::default() }
    }

    /// The counts so far, which go on.
    #[must_use]
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    fn counted(&self, inner: Box<dyn DataWriter>) -> Box<dyn DataWriter> {
        Box::new(CountingWriter { inner, tally: self.tally() })
    }
}

#[async_trait]
impl Store for Counting {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn room(&self) -> Result<()> {
        self.inner.room().await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        self.tally.small_written.fetch_add(bytes.len() as u64, Relaxed);
        self.inner.put(key, bytes, condition).await
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        let object = self.inner.get(key).await?;
        self.tally.small_read.fetch_add(object.bytes.len() as u64, Relaxed);
        Ok(object)
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        let tally = self.tally();
        tally.data_reads.fetch_add(1, Relaxed);
        let stream = self.inner.read(key, range).await?;
        Ok(stream
            .inspect_ok(move |piece| {
                tally.data_read.fetch_add(piece.len() as u64, Relaxed);
            })
            .boxed())
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        self.inner.list(prefix, after)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        Ok(self.counted(self.inner.create_data(key).await?))
    }

    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        Ok(match self.inner.resume_data(state).await? {
            Resumed::Open(writer) => Resumed::Open(self.counted(writer)),
            sealed @ Resumed::Sealed(_) => sealed,
        })
    }

    async fn discard_data(&self, state: &WriterState) -> Result<()> {
        self.inner.discard_data(state).await
    }
}

#[derive(Debug)]
struct CountingWriter {
    inner: Box<dyn DataWriter>,
    tally: Arc<Tally>,
}

#[async_trait]
impl DataWriter for CountingWriter {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        self.tally.data_written.fetch_add(bytes as u64, Relaxed);
        self.inner.write(pieces).await
    }

    fn length(&self) -> u64 {
        self.inner.length()
    }

    async fn checkpoint(&mut self) -> Result<Option<WriterState>> {
        self.inner.checkpoint().await
    }

    async fn pause(self: Box<Self>) -> Result<Paused> {
        self.inner.pause().await
    }

    async fn seal(self: Box<Self>) -> Result<u64> {
        self.inner.seal().await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.inner.discard().await
    }
}
