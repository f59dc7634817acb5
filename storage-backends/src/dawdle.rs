//! [`Dawdling`]: a store whose calls take a while, each another one, to prove what may happen in between.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use crate::{
    ByteStream, Capabilities, Condition, DataWriter, EntryStream, Key, Object, Result, Resumed, Store,
    Version, WriterState,
};

/// A store whose calls take a while before and after they have their effect: some tasks run in between as a rule, and now and
/// then much time passes, as for a process that was stopped.
#[derive(Debug)]
pub struct Dawdling {
    inner: Arc<dyn Store>,
    pace: Arc<Pace>,
}

#[derive(Debug)]
struct Pace {
    state: AtomicU64,
    pause: Duration,
}

/// Of so many calls one takes long.
const LONG: u64 = 128;

impl Pace {
    fn next(&self) -> u64 {
        let mut word = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    async fn dawdle(&self) {
        let chance = self.next();
        if chance.is_multiple_of(LONG) {
            tokio::time::sleep(self.pause).await;
        }
        for _ in 0..(chance >> 32) % 8 {
            tokio::task::yield_now().await;
        }
    }

    async fn around<T>(&self, call: impl Future<Output = T> + Send) -> T {
        self.dawdle().await;
        let result = call.await;
        self.dawdle().await;
        result
    }
}

impl Dawdling {
    /// `inner`, of which some calls take `pause` longer. Equal seeds take equal times.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, seed: u64, pause: Duration) -> Self {
        Self { inner, pace: Arc::new(Pace { state: AtomicU64::new(seed), pause }) }
    }
}

#[async_trait]
impl Store for Dawdling {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn room(&self) -> Result<()> {
        self.inner.room().await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        self.pace.around(self.inner.put(key, bytes, condition)).await
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        self.pace.around(self.inner.get(key)).await
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        self.pace.around(self.inner.read(key, range)).await
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        let (inner, pace) = (Arc::clone(&self.inner), Arc::clone(&self.pace));
        let (prefix, after) = (prefix.clone(), after.cloned());
        let begun = async move {
            pace.dawdle().await;
            let entries = inner.list(&prefix, after.as_ref());
            entries.then(move |entry| {
                let pace = Arc::clone(&pace);
                async move {
                    pace.dawdle().await;
                    entry
                }
            })
        };
        stream::once(begun).flatten().boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.pace.around(self.inner.delete(key)).await
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        self.pace.around(self.inner.create_data(key)).await
    }

    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        self.pace.around(self.inner.resume_data(state)).await
    }

    async fn discard_data(&self, state: &WriterState) -> Result<()> {
        self.pace.around(self.inner.discard_data(state)).await
    }
}
