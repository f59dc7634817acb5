//! [`Bucket`]: a store over any `object_store` that has multipart uploads and ordered listings.
//!
//! S3 and memory are both this, so what the tests prove in memory is the code that runs against S3.

mod data;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};
use object_store::multipart::{MultipartStore, PartId};
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};

use tokio::sync::Semaphore;

pub(crate) use data::PartRule;

use crate::lock::KeyLocks;
use crate::store::Stamp;
use crate::{
    ByteStream, Capabilities, Condition, DataWriter, Entry, EntryStream, Error, Key, Object, Result, Resumed,
    Store, Version, WriterState,
};

/// A store over an `object_store`.
#[derive(Debug)]
pub struct Bucket<S> {
    store: Arc<S>,
    backend: &'static str,
    parts: PartRule,
    /// Places for parts on their way.
    places: Arc<Semaphore>,
    /// Where the server cannot compare and swap, one process does it for itself, a key at a time.
    emulated: Option<KeyLocks>,
}

impl<S: ObjectStore + MultipartStore> Bucket<S> {
    pub(crate) fn new(store: S, backend: &'static str, parts: PartRule) -> Self {
        let places = Arc::new(Semaphore::new(parts.in_flight));
        Self { store: Arc::new(store), backend, parts, places, emulated: None }
    }

    /// Stops relying on conditional writes of the server. From then on only one process may use the store.
    pub(crate) fn without_conditional_put(mut self) -> Self {
        self.emulated = Some(KeyLocks::new());
        self
    }

    async fn put_directly(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        let mode = match &condition {
            Condition::None => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(version) => {
                PutMode::Update(UpdateVersion { e_tag: Some(etag(version, key)?.to_owned()), version: None })
            }
        };
        let put =
            self.store.put_opts(&key.to_path(), PutPayload::from_bytes(bytes), PutOptions::from(mode)).await;
        match put.map_err(|error| Error::from_object_store("write", key, error)) {
            Ok(result) => version(key, result.e_tag),
            // Servers disagree on the answer to If-Match when the object is gone or being replaced.
            Err(Error::NotFound { key } | Error::AlreadyExists { key })
                if matches!(condition, Condition::Unchanged(_)) =>
            {
                Err(Error::Changed { key })
            }
            Err(error) => Err(error),
        }
    }

    /// The check and the write of a conditional put, held together by the caller's lock on the key.
    async fn put_emulated(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        match (condition, self.get(key).await) {
            (Condition::Absent, Ok(_)) => return Err(Error::AlreadyExists { key: key.clone() }),
            (Condition::Unchanged(expected), Ok(current)) if current.version != expected => {
                return Err(Error::Changed { key: key.clone() });
            }
            (Condition::Unchanged(_), Err(Error::NotFound { key })) => return Err(Error::Changed { key }),
            (_, Ok(_) | Err(Error::NotFound { .. })) => {}
            (_, Err(error)) => return Err(error),
        }
        self.put_directly(key, bytes, Condition::None).await
    }

    async fn delete_directly(&self, key: &Key) -> Result<()> {
        match self.store.delete(&key.to_path()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::from_object_store("delete", key, error)),
        }
    }
}

#[async_trait]
impl<S: ObjectStore + MultipartStore + Debug> Store for Bucket<S> {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: self.backend,
            shared: self.emulated.is_none(),
            appends: false,
            max_data_object: self.parts.max_object(),
            checkpoint_unit: self.parts.size,
            min_pause: Some(self.parts.size),
        }
    }

    /// A bucket tells that it is full when it is written to.
    async fn room(&self) -> Result<()> {
        Ok(())
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Version> {
        match &self.emulated {
            None => self.put_directly(key, bytes, condition).await,
            Some(locks) => {
                let _guard = locks.lock(key).await;
                self.put_emulated(key, bytes, condition).await
            }
        }
    }

    async fn get(&self, key: &Key) -> Result<Object> {
        let fail = |error| Error::from_object_store("read", key, error);
        let result = self.store.get(&key.to_path()).await.map_err(fail)?;
        let version = version(key, result.meta.e_tag.clone())?;
        Ok(Object { bytes: result.bytes().await.map_err(fail)?, version })
    }

    async fn read(&self, key: &Key, range: Range<u64>) -> Result<ByteStream> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let result = self.store.get_opts(&key.to_path(), options).await.map_err(|error| match error {
            // Of the answer there is only the text.
            error if error.to_string().contains("416 Range Not Satisfiable") => {
                Error::DataLost { key: key.clone(), reason: format!("it has no byte {}", range.start) }
            }
            error => Error::from_object_store("read", key, error),
        })?;
        if result.range != range {
            let reason =
                format!("the object has {} bytes, bytes to {} are needed", result.meta.size, range.end);
            return Err(Error::DataLost { key: key.clone(), reason });
        }
        let key = key.clone();
        Ok(result.into_stream().map_err(move |e| Error::from_object_store("read", &key, e)).boxed())
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> EntryStream {
        let listed = match after {
            None => self.store.list(Some(&prefix.to_path())),
            Some(after) => self.store.list_with_offset(Some(&prefix.to_path()), &after.to_path()),
        };
        let prefix = prefix.clone();
        listed
            .map_err(move |error| Error::unavailable("list", prefix.as_str(), error))
            // Names that are no keys are somebody else's.
            .try_filter_map(|meta| future::ready(Ok(entry(meta))))
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        match &self.emulated {
            None => self.delete_directly(key).await,
            Some(locks) => {
                let _guard = locks.lock(key).await;
                self.delete_directly(key).await
            }
        }
    }

    async fn create_data(&self, key: &Key) -> Result<Box<dyn DataWriter>> {
        let (store, places) = (Arc::clone(&self.store), Arc::clone(&self.places));
        Ok(Box::new(data::PartWriter::new(store, key.clone(), self.parts, places)))
    }

    /// Completes the multipart upload with the parts that are known. Going on in it would be unsafe: a
    /// stalled writer on another replica could still be sending parts of the same numbers.
    async fn resume_data(&self, state: &WriterState) -> Result<Resumed> {
        let key = Key::parse(state.key.as_str())
            .map_err(|invalid| Error::unavailable("resume", state.key.clone(), invalid))?;
        let Some(multipart) = &state.multipart else {
            let reason = "it was written to a store of another kind".to_owned();
            return Err(Error::DataLost { key, reason });
        };
        let parts = multipart.parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
        data::complete(self.store.as_ref(), &key, &multipart.id, parts, state.length).await?;
        Ok(Resumed::Sealed(state.length))
    }

    async fn discard_data(&self, state: &WriterState) -> Result<()> {
        let key = Key::parse(state.key.as_str())
            .map_err(|invalid| Error::unavailable("discard", state.key.clone(), invalid))?;
        if let Some(multipart) = &state.multipart {
            data::abort(self.store.as_ref(), &key, &multipart.id).await?;
        }
        self.delete(&key).await
    }
}

fn entry(meta: ObjectMeta) -> Option<Entry> {
    let key = Key::parse(String::from(meta.location)).ok()?;
    Some(Entry { key, size: meta.size, modified: meta.last_modified.into() })
}

fn version(key: &Key, etag: Option<String>) -> Result<Version> {
    etag.map(|etag| Version(Stamp::ETag(etag))).ok_or_else(|| {
        Error::unavailable("read", key.as_str(), "the server sent no ETag, which conditional writes need")
    })
}

fn etag<'a>(version: &'a Version, key: &Key) -> Result<&'a str> {
    match &version.0 {
        Stamp::ETag(etag) => Ok(etag),
        // A version of another backend: it cannot be the current one.
        Stamp::Content(_) => Err(Error::Changed { key: key.clone() }),
    }
}
