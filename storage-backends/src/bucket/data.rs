//! Data objects in parts: full parts go out while the next one fills.
//!
//! Parts have one size from first to last. Growing them, the usual way past the limit of 10,000 parts,
//! would let memory grow with the size of a blob; here a blob that outgrows an object goes on in
//! another ([`Capabilities::max_data_object`](crate::Capabilities::max_data_object)), so there is no
//! size limit and memory stays the same.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use crate::data::MultipartState;
use crate::{DataWriter, Error, Key, Paused, Result, WriterState};

/// How data objects are cut into parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartRule {
    /// Bytes in a part; the last part of an object may have fewer. S3 takes no less than 5 MiB.
    pub(crate) size: u64,
    /// The most parts in an object. S3 takes 10,000.
    pub(crate) most: u64,
    /// Parts on their way at one time, of all objects together: one upload may use them all, and many share them.
    /// Each writer holds one more, the one that is filling, so `n` uploads hold `(in_flight + n) * size` bytes.
    pub(crate) in_flight: usize,
}

impl PartRule {
    /// The largest object under this rule.
    pub(crate) fn max_object(&self) -> u64 {
        self.size.saturating_mul(self.most)
    }
}

/// Writes one object in parts, or with a single put when it fits in one.
#[derive(Debug)]
pub(super) struct PartWriter<S> {
    store: Arc<S>,
    key: Key,
    path: Path,
    rule: PartRule,
    places: Arc<Semaphore>,
    multipart: Option<String>,
    /// Parts in order; `None` while on their way.
    parts: Vec<Option<PartId>>,
    sending: JoinSet<(usize, object_store::Result<PartId>)>,
    filling: Vec<Bytes>,
    filled: u64,
    length: u64,
}

impl<S: ObjectStore + MultipartStore> PartWriter<S> {
    pub(super) fn new(store: Arc<S>, key: Key, rule: PartRule, places: Arc<Semaphore>) -> Self {
        let path = key.to_path();
        Self {
            store,
            key,
            path,
            rule,
            places,
            multipart: None,
            parts: Vec::new(),
            sending: JoinSet::new(),
            filling: Vec::new(),
            filled: 0,
            length: 0,
        }
    }

    fn failed(&self, error: object_store::Error) -> Error {
        Error::from_object_store("write", &self.key, error)
    }

    /// Sends what has been filled as the next part, waiting for a place among those on their way.
    async fn send_part(&mut self) -> Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let id = if let Some(id) = &self.multipart {
            id.clone()
        } else {
            let id = self.store.create_multipart(&self.path).await.map_err(|e| self.failed(e))?;
            self.multipart.insert(id).clone()
        };
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|closed| Error::unavailable("write", self.key.as_str(), closed))?;
        while let Some(sent) = self.sending.try_join_next() {
            self.settle(sent)?;
        }
        let payload = PutPayload::from_iter(std::mem::take(&mut self.filling));
        self.filled = 0;
        let index = self.parts.len();
        self.parts.push(None);
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        self.sending.spawn(async move {
            let sent = store.put_part(&path, &id, index, payload).await;
            drop(place);
            (index, sent)
        });
        Ok(())
    }

    /// Notes what became of a part.
    fn settle(&mut self, sent: Result<(usize, object_store::Result<PartId>), JoinError>) -> Result<()> {
        match sent {
            Ok((index, Ok(part))) => {
                self.parts[index] = Some(part);
                Ok(())
            }
            Ok((_, Err(error))) => Err(self.failed(error)),
            Err(error) => Err(Error::unavailable("write", self.key.as_str(), error)),
        }
    }

    async fn settle_all(&mut self) -> Result<Vec<PartId>> {
        while let Some(sent) = self.sending.join_next().await {
            self.settle(sent)?;
        }
        self.parts
            .iter()
            .cloned()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::unavailable("write", self.key.as_str(), "an earlier part failed"))
    }

    async fn publish(&mut self) -> Result<u64> {
        let Some(id) = self.multipart.clone() else {
            if self.length > 0 {
                let payload = PutPayload::from_iter(std::mem::take(&mut self.filling));
                self.store.put(&self.path, payload).await.map_err(|e| self.failed(e))?;
            }
            return Ok(self.length);
        };
        self.send_part().await?;
        let parts = self.settle_all().await?;
        complete(self.store.as_ref(), &self.key, &id, parts, self.length).await?;
        Ok(self.length)
    }
}

#[async_trait]
impl<S: ObjectStore + MultipartStore + std::fmt::Debug> DataWriter for PartWriter<S> {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        for mut piece in pieces {
            while !piece.is_empty() {
                let room = self.rule.size - self.filled;
                let take = usize::try_from(room).unwrap_or(usize::MAX).min(piece.len());
                self.filling.push(piece.split_to(take));
                self.filled += take as u64;
                self.length += take as u64;
                if self.filled == self.rule.size {
                    self.send_part().await?;
                }
            }
        }
        Ok(())
    }

    fn length(&self) -> u64 {
        self.length
    }

    /// There is something to come back to only where the bytes so far fill whole parts.
    async fn checkpoint(&mut self) -> Result<Option<WriterState>> {
        let Some(id) = self.multipart.clone().filter(|_| self.filled == 0) else { return Ok(None) };
        let parts = self.settle_all().await?.into_iter().map(|part| part.content_id).collect();
        Ok(Some(WriterState {
            key: self.key.as_str().to_owned(),
            length: self.length,
            multipart: Some(MultipartState { id, parts }),
        }))
    }

    async fn pause(mut self: Box<Self>) -> Result<Paused> {
        Ok(Paused::Sealed(self.publish().await?))
    }

    async fn seal(mut self: Box<Self>) -> Result<u64> {
        self.publish().await
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        self.sending.shutdown().await;
        if let Some(id) = &self.multipart {
            abort(self.store.as_ref(), &self.key, id).await?;
        }
        match self.store.delete(&self.path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::from_object_store("delete", &self.key, error)),
        }
    }
}

/// Makes an object of the first `length` bytes of a multipart upload.
///
/// The reply to an earlier attempt may have been lost, of ours or of one that `object_store` repeated: then the
/// upload is unknown and the object is there. It may be longer, where its writer died between completing
/// it and saying so; the first bytes are the same.
pub(super) async fn complete<S: ObjectStore + MultipartStore>(
    store: &S,
    key: &Key,
    id: &String,
    parts: Vec<PartId>,
    length: u64,
) -> Result<()> {
    let path = key.to_path();
    let Err(error) = store.complete_multipart(&path, id, parts).await else { return Ok(()) };
    match store.head(&path).await {
        Ok(meta) if meta.size >= length => Ok(()),
        Ok(_) | Err(object_store::Error::NotFound { .. }) if is_unknown_upload(&error) => {
            Err(Error::DataLost { key: key.clone(), reason: error.to_string() })
        }
        _ => Err(Error::unavailable("complete", key.as_str(), error)),
    }
}

fn is_unknown_upload(error: &object_store::Error) -> bool {
    // Memory has no name for it, and no other failure.
    matches!(
        error,
        object_store::Error::NotFound { .. } | object_store::Error::Generic { store: "InMemory", .. }
    )
}

/// Aborts a multipart upload; one that is unknown is aborted already.
pub(super) async fn abort<S: MultipartStore>(store: &S, key: &Key, id: &String) -> Result<()> {
    match store.abort_multipart(&key.to_path(), id).await {
        Ok(()) => Ok(()),
        Err(error) if is_unknown_upload(&error) => Ok(()),
        Err(error) => Err(Error::from_object_store("discard", key, error)),
    }
}

#[cfg(test)]
mod tests {
    use crate::s3::PARTS;

    #[test]
    fn ten_thousand_parts_never_limit_a_blob() {
        const TIB: u64 = 1 << 40;
        for blob in [1, PARTS.max_object(), TIB, 100 * TIB + 1] {
            let objects = blob.div_ceil(PARTS.max_object());
            let last = blob - (objects - 1) * PARTS.max_object();
            assert!(last.div_ceil(PARTS.size) <= 10_000);
            assert!(PARTS.max_object() <= 5 * TIB, "S3 takes no larger object");
            assert!(objects * PARTS.max_object() >= blob);
        }
    }
}
