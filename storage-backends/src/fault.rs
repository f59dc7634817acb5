//! [`Faulty`]: a store that fails on command, to prove what a failure leaves behind.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::{
    ByteStream, Capabilities, Condition, DataWriter, EntryStream, Error, Key, Object, Paused, Result,
    Resumed, Store, Version, WriterState,
};

/// A call that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the method of Store or DataWriter of that name")]
pub enum Operation {
    Put,
    Get,
    Read,
    List,
    Delete,
    CreateData,
    ResumeData,
    WriteData,
    Checkpoint,
    /// `pause` and `seal` of a writer.
    FinishData,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before it had the whole effect: a write of data takes half of its bytes, a listing or a read ends in an error
    /// after its first item, everything else does nothing.
    Fails,
    /// After it took effect: the reply was lost.
    LosesReply,
    /// It has no effect, and fails so late that whoever waits may have given up.
    Stalls,
    /// It takes effect, and fails as late.
    StallsBehind,
}

impl Fault {
    /// How late a call fails that stalls.
    pub const STALL: Duration = Duration::from_millis(150);

    /// Every way to fail.
    pub const ALL: [Self; 4] = [Self::Fails, Self::LosesReply, Self::Stalls, Self::StallsBehind];
}

#[derive(Debug)]
struct Armed {
    operation: Option<Operation>,
    skip: usize,
    fault: Fault,
}

type Trigger = Arc<Mutex<Option<Armed>>>;

/// A store of which one call will fail.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    armed: Trigger,
}

impl Faulty {
    /// A store that behaves as `inner` until it is armed.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, armed: Arc::default() }
    }

    /// Lets one call fail: the one after `skip` calls of `operation` (of any, when `None`) have passed.
    pub fn arm(&self, operation: Option<Operation>, skip: usize, fault: Fault) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Armed { operation, skip, fault });
    }

    /// Whether the fault has happened, or none was armed. Disarms it.
    pub fn disarm(&self) -> bool {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).take().is_none()
    }

    fn wrap(&self, inner: Box<dyn DataWriter>) -> Box<dyn DataWriter> {
        Box::new(FaultyWriter { inner, armed: Arc::clone(&self.armed) })
    }
}

/// The fault that this call has to suffer, if any.
fn trip(armed: &Trigger, operation: Operation) -> Option<Fault> {
    let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
    let current = armed.as_mut().filter(|a| a.operation.is_none_or(|wanted| wanted == operation))?;
    if current.skip > 0 {
        current.skip -= 1;
        return None;
    }
    armed.take().map(|tripped| tripped.fault)
}

fn injected(operation: Operation) -> Error {
    Error::unavailable("reach", format!("{operation:?}"), "injected fault")
}

/// Runs `call` under the fault that is due for it.
async fn suffer<T>(
    armed: &Trigger,
    operation: Operation,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    match trip(armed, operation) {
        None => call.await,
        Some(Fault::Fails) => Err(injected(operation)),
        Some(Fault::LosesReply) => {
            call.await?;
            Err(injected(operation))
        }
        Some(Fault::Stalls) => stall(operation).await,
        Some(Fault::StallsBehind) => {
            call.await?;
            stall(operation).await
        }
    }
}

async fn stall<T>(operation: Operation) -> Result<T> {
    tokio::time::sleep(Fault::STALL).await;
    Err(injected(operation))
}

/// What is left of a stream that suffers `fault`: its first item, then an error.
fn broken<T: Send + 'static>(
    stream: BoxStream<'static, Result<T>>,
    operation: Operation,
    fault: Fault,
) -> BoxStream<'static, Result<T>> {
    let end = async move {
        match fault {
            Fault::Fails | Fault::LosesReply => Err(injected(operation)),
            Fault::Stalls | Fault::StallsBehind => stall(operation).await,
        }
    };
    stream.take(1).chain(stream::once(end)).boxed()
}

#[async_trait]
impl Store for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn room(&self) -> Result<()> {
        self.inner.room().await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        suffer(&self.armed, Operation::Put, self.inner.put(key, bytes, condition)).await
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        suffer(&self.armed, Operation::Get, self.inner.get(key)).await
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        let stream = self.inner.read(key, range).await?;
        Ok(match trip(&self.armed, Operation::Read) {
            None => stream,
            Some(fault) => broken(stream, Operation::Read, fault),
        })
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        let entries = self.inner.list(prefix, after);
        match trip(&self.armed, Operation::List) {
            None => entries,
            Some(fault) => broken(entries, Operation::List, fault),
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        suffer(&self.armed, Operation::Delete, self.inner.delete(key)).await
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        let writer = suffer(&self.armed, Operation::CreateData, self.inner.create_data(key)).await?;
        Ok(self.wrap(writer))
    }

    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        match suffer(&self.armed, Operation::ResumeData, self.inner.resume_data(state)).await? {
            Resumed::Open(writer) => Ok(Resumed::Open(self.wrap(writer))),
            sealed @ Resumed::Sealed(_) => Ok(sealed),
        }
    }

    async fn discard_data(&self, state: &WriterState) -> Result<()> {
        suffer(&self.armed, Operation::Delete, self.inner.discard_data(state)).await
    }
}

#[derive(Debug)]
struct FaultyWriter {
    inner: Box<dyn DataWriter>,
    armed: Trigger,
}

#[async_trait]
impl DataWriter for FaultyWriter {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        match trip(&self.armed, Operation::WriteData) {
            None => self.inner.write(pieces).await,
            Some(Fault::LosesReply) => {
                self.inner.write(pieces).await?;
                Err(injected(Operation::WriteData))
            }
            Some(Fault::Fails) => {
                let half = pieces.iter().map(|piece| piece.slice(..piece.len() / 2)).collect();
                self.inner.write(half).await?;
                Err(injected(Operation::WriteData))
            }
            Some(Fault::Stalls) => stall(Operation::WriteData).await,
            Some(Fault::StallsBehind) => {
                self.inner.write(pieces).await?;
                stall(Operation::WriteData).await
            }
        }
    }

    fn length(&self) -> u64 {
        self.inner.length()
    }

    async fn checkpoint(&mut self) -> Result<Option<WriterState>> {
        suffer(&self.armed, Operation::Checkpoint, self.inner.checkpoint()).await
    }

    async fn pause(self: Box<Self>) -> Result<Paused> {
        suffer(&self.armed, Operation::FinishData, self.inner.pause()).await
    }

    async fn seal(self: Box<Self>) -> Result<u64> {
        suffer(&self.armed, Operation::FinishData, self.inner.seal()).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        suffer(&self.armed, Operation::Delete, self.inner.discard()).await
    }
}
