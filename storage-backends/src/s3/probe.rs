//! Whether the server honours conditional puts. Some accept the header and ignore it; one released
//! version let several racing writers win.

use bytes::Bytes;
use futures::future::join_all;
use uuid::Uuid;

use crate::{Condition, Error, Key, Result, Store};

/// What the server did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Honoured,
    /// What went wrong, in a few words.
    Broken(&'static str),
}

/// Writers that race in the probe. Two already show a server that ignores the header; some servers make
/// each further one wait a second.
const RACERS: u8 = 3;

pub(super) async fn conditional_put(store: &dyn Store) -> Result<Verdict> {
    let key = Key::parse(format!("probe/{}", Uuid::now_v7()))
        .map_err(|invalid| Error::unusable(invalid.to_string()))?;
    let verdict = examine(store, &key).await?;
    store.delete(&key).await?;
    Ok(verdict)
}

async fn examine(store: &dyn Store, key: &Key) -> Result<Verdict> {
    let racers = (0..RACERS).map(|i| store.put(key, Bytes::from(vec![i]), Condition::Absent));
    let mut winners = Vec::new();
    for outcome in join_all(racers).await {
        match outcome {
            Ok(version) => winners.push(version),
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(unreachable_server(&error)),
        }
    }
    let first = match winners.as_slice() {
        [first] => first,
        [] => return Err(Error::unusable("the S3 server refused to create an object that is not there")),
        _ => return Ok(Verdict::Broken("several creations of one key won")),
    };
    store.put(key, Bytes::from_static(b"next"), Condition::Unchanged(first.clone())).await?;
    match store.put(key, Bytes::from_static(b"stale"), Condition::Unchanged(first.clone())).await {
        Err(Error::Changed { .. }) => Ok(Verdict::Honoured),
        Ok(_) => Ok(Verdict::Broken("an object was replaced under a stale ETag")),
        Err(error) => Err(error),
    }
}

/// The probe is the first request to the server, so its failure is mostly a wrong setting.
fn unreachable_server(error: &Error) -> Error {
    let cause = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    Error::unusable(format!(
        "cannot write to the S3 bucket; check endpoint, bucket and credentials ({cause})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ByteStream, Capabilities, DataWriter, EntryStream, Memory, MemoryOptions, Object, Resumed, Version,
        WriterState,
    };
    use async_trait::async_trait;
    use std::ops::Range;

    /// A server that ignores some of the conditions it is given, as several released ones have done.
    #[derive(Debug)]
    struct Careless {
        inner: Memory,
        ignores: fn(&Condition) -> bool,
    }

    #[async_trait]
    impl Store for Careless {
        fn capabilities(&self) -> Capabilities {
            self.inner.capabilities()
        }
        async fn room(&self) -> Result<()> {
            self.inner.room().await
        }
        async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
            let condition = if (self.ignores)(&condition) { Condition::None } else { condition };
            self.inner.put(key, bytes, condition).await
        }
        async fn get(&self, key: &Key) -> Result<Object> {
            self.inner.get(key).await
        }
        async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
            self.inner.read(key, range).await
        }
        fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
            self.inner.list(prefix, after)
        }
        async fn delete(&self, key: &Key) -> Result<()> {
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

    async fn verdict(ignores: fn(&Condition) -> bool) -> Verdict {
        let inner = Memory::empty(MemoryOptions::default());
        conditional_put(&Careless { inner, ignores }).await.unwrap()
    }

    #[tokio::test]
    async fn a_server_that_ignores_a_condition_is_found_out() {
        assert_eq!(verdict(|_| false).await, Verdict::Honoured);
        assert!(matches!(verdict(|c| matches!(c, Condition::Absent)).await, Verdict::Broken(_)));
        assert!(matches!(verdict(|c| matches!(c, Condition::Unchanged(_))).await, Verdict::Broken(_)));
    }
}
