//! [`Interrupted`]: a store that waits ahead of one of its calls until somebody has done something.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::{
    ByteStream, Capabilities, Condition, DataWriter, EntryStream, Key, Object, Result, Resumed, Store,
    Version, WriterState,
};
use tokio::sync::oneshot::{Receiver, Sender, channel};

type Waiting = Arc<Mutex<Option<(usize, Sender<()>, Receiver<()>)>>>;

/// A store of which one call waits.
#[derive(Debug)]
pub(crate) struct Interrupted {
    inner: Arc<dyn Store>,
    waiting: Waiting,
}

impl Interrupted {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, waiting: Waiting::default() }
    }

    /// Lets the call wait that comes behind `skip` others of small objects: it says that it is there, and goes on when it is told to.
    pub(crate) fn at(&self, skip: usize) -> (Receiver<()>, Sender<()>) {
        let ((reached, is_reached), (go_on, goes_on)) = (channel(), channel());
        *self.waiting.lock().unwrap() = Some((skip, reached, goes_on));
        (is_reached, go_on)
    }

    /// No call waits. Whoever waited for one hears that none came.
    pub(crate) fn never(&self) {
        self.waiting.lock().unwrap().take();
    }
}

async fn pass(waiting: &Waiting) {
    let due = {
        let mut waiting = waiting.lock().unwrap();
        match waiting.as_mut() {
            Some((0, ..)) => waiting.take(),
            Some((skip, ..)) => {
                *skip -= 1;
                None
            }
            None => None,
        }
    };
    if let Some((_, reached, go_on)) = due {
        reached.send(()).unwrap();
        go_on.await.unwrap();
    }
}

#[async_trait]
impl Store for Interrupted {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn room(&self) -> Result<()> {
        self.inner.room().await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        pass(&self.waiting).await;
        self.inner.put(key, bytes, condition).await
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        pass(&self.waiting).await;
        self.inner.get(key).await
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        self.inner.read(key, range).await
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        let (waiting, inner) = (Arc::clone(&self.waiting), Arc::clone(&self.inner));
        let (prefix, after) = (prefix.clone(), after.cloned());
        let listing = async move {
            pass(&waiting).await;
            Ok(inner.list(&prefix, after.as_ref()))
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        pass(&self.waiting).await;
        self.inner.delete(key).await
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        self.inner.create_data(key).await
    }

    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        self.inner.resume_data(state).await
    }

    async fn discard_data(&self, state: &WriterState) -> Result<()> {
        self.inner.discard_data(state).await
    }
}
