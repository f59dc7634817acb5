//! [`Measured`]: a store whose calls are told to somebody who counts them.
//!
//! It changes nothing that passes through it. A read is over when its stream begins, since how long that takes to its end is
//! for whoever reads; a fault in the middle of the stream is told as one more call. A listing is over when its stream is.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tracing::Instrument as _;

use crate::{
    ByteStream, Capabilities, Condition, DataWriter, EntryStream, Error, Key, Object, Paused, Result,
    Resumed, Store, Version, WriterState,
};

/// Who is told of calls. It must be quick.
pub trait Observer: Debug + Send + Sync {
    /// A call of `operation` has ended after `took`.
    fn called(&self, operation: &'static str, outcome: Outcome, took: Duration);

    /// A request to the server of a bucket was answered. A call may take several.
    fn answered(&self, answer: Answer);
}

/// How a server answered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As it was meant to.
    Done,
    /// Not: the object or the rights are not there, or a condition does not hold.
    Refused,
    /// It has too much to do; it is asked again.
    Busy,
    /// It failed; it is asked again where that cannot do harm.
    Failed,
    /// It did not; it is asked again where that cannot do harm.
    None,
}

impl Answer {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::None => "none",
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it was meant to.
    Done,
    /// There is no such object.
    NotFound,
    /// Its condition did not hold.
    Refused,
    /// What was stored is lost.
    Lost,
    /// The medium is full.
    Full,
    /// The store failed or cannot be reached.
    Unavailable,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::NotFound, Self::Refused, Self::Lost, Self::Full, Self::Unavailable];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::NotFound,
            Error::AlreadyExists { .. } | Error::Changed { .. } => Self::Refused,
            Error::DataLost { .. } => Self::Lost,
            Error::Full { .. } => Self::Full,
            Error::Unusable { .. } | Error::Unavailable { .. } => Self::Unavailable,
        }
    }
}

/// A store whose calls are told.
#[derive(Debug)]
pub struct Measured {
    inner: Arc<dyn Store>,
    observer: Arc<dyn Observer>,
}

impl Measured {
    /// Tells `observer` of the calls of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, observer: Arc<dyn Observer>) -> Self {
        Self { inner, observer }
    }

    fn measured(&self, inner: Box<dyn DataWriter>) -> Box<dyn DataWriter> {
        Box::new(MeasuredWriter { inner, observer: Arc::clone(&self.observer) })
    }
}

async fn told<T>(
    observer: &dyn Observer,
    operation: &'static str,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let begun = Instant::now();
    // Nothing, and at no cost, where nobody takes traces.
    let span =
        tracing::trace_span!(target: "dvcr::trace", "store", otel.name = operation, otel.kind = "client");
    let result = call.instrument(span).await;
    observer.called(operation, result.as_ref().err().map_or(Outcome::Done, Outcome::of), begun.elapsed());
    result
}

/// A call that lasts as long as a stream.
struct Streaming {
    observer: Arc<dyn Observer>,
    operation: &'static str,
    begun: Instant,
    outcome: Outcome,
}

impl Streaming {
    fn failed(&mut self, error: &Error) {
        self.outcome = Outcome::of(error);
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.observer.called(self.operation, self.outcome, self.begun.elapsed());
    }
}

#[async_trait]
impl Store for Measured {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn room(&self) -> Result<()> {
        let begun = Instant::now();
        let room = self.inner.room().await;
        // Mostly it looks at nothing. That there is none is told.
        if let Err(error) = &room {
            self.observer.called("room", Outcome::of(error), begun.elapsed());
        }
        room
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        told(self.observer.as_ref(), "put", self.inner.put(key, bytes, condition)).await
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        told(self.observer.as_ref(), "get", self.inner.get(key)).await
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        let stream = told(self.observer.as_ref(), "read", self.inner.read(key, range)).await?;
        let observer = Arc::clone(&self.observer);
        let begun = Instant::now();
        let tell = move |error: &Error| observer.called("read", Outcome::of(error), begun.elapsed());
        Ok(stream.inspect_err(tell).boxed())
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        let mut call = Streaming {
            observer: Arc::clone(&self.observer),
            operation: "list",
            begun: Instant::now(),
            outcome: Outcome::Done,
        };
        // As a method, so that the stream has the whole call, which ends with it.
        let watched = move |error: &Error| call.failed(error);
        self.inner.list(prefix, after).inspect_err(watched).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        told(self.observer.as_ref(), "delete", self.inner.delete(key)).await
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        let writer = told(self.observer.as_ref(), "create_data", self.inner.create_data(key)).await?;
        Ok(self.measured(writer))
    }

    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        Ok(match told(self.observer.as_ref(), "resume_data", self.inner.resume_data(state)).await? {
            Resumed::Open(writer) => Resumed::Open(self.measured(writer)),
            sealed @ Resumed::Sealed(_) => sealed,
        })
    }

    async fn discard_data(&self, state: &WriterState) -> Result<()> {
        told(self.observer.as_ref(), "discard_data", self.inner.discard_data(state)).await
    }
}

#[derive(Debug)]
struct MeasuredWriter {
    inner: Box<dyn DataWriter>,
    observer: Arc<dyn Observer>,
}

#[async_trait]
impl DataWriter for MeasuredWriter {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        told(self.observer.as_ref(), "write", self.inner.write(pieces)).await
    }

    fn length(&self) -> u64 {
        self.inner.length()
    }

    async fn checkpoint(&mut self) -> Result<Option<WriterState>> {
        told(self.observer.as_ref(), "checkpoint", self.inner.checkpoint()).await
    }

    async fn pause(self: Box<Self>) -> Result<Paused> {
        let Self { inner, observer } = *self;
        told(observer.as_ref(), "pause", inner.pause()).await
    }

    async fn seal(self: Box<Self>) -> Result<u64> {
        let Self { inner, observer } = *self;
        told(observer.as_ref(), "seal", inner.seal()).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        let Self { inner, observer } = *self;
        told(observer.as_ref(), "discard", inner.discard()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Memory, MemoryOptions};

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<(&'static str, Outcome)>>);

    impl Observer for Told {
        fn called(&self, operation: &'static str, outcome: Outcome, _took: Duration) {
            self.0.lock().unwrap().push((operation, outcome));
        }

        fn answered(&self, _answer: Answer) {}
    }

    #[tokio::test]
    async fn each_call_is_told_with_how_it_ended() {
        let told = Arc::new(Told::default());
        let memory = Arc::new(Memory::empty(MemoryOptions::default()));
        let store = Measured::new(memory, Arc::clone(&told) as Arc<_>);
        let key = Key::parse("a/b").unwrap();
        assert!(store.get(&key).await.is_err());
        store.put(&key, Bytes::from_static(b"x"), Condition::None).await.unwrap();
        assert!(store.put(&key, Bytes::new(), Condition::Absent).await.is_err());
        assert_eq!(store.list(&Key::parse("a").unwrap(), None).count().await, 1);
        let expected = [
            ("get", Outcome::NotFound),
            ("put", Outcome::Done),
            ("put", Outcome::Refused),
            ("list", Outcome::Done),
        ];
        assert_eq!(*told.0.lock().unwrap(), expected);
    }
}
