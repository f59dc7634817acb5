//! Upload sessions: what is kept of an upload between requests, and who may change it.
//!
//! A session lives in the store, so it survives the process and any replica can go on with it. Within a
//! process one request at a time works on a session; between processes compare-and-swap decides, and the
//! loser's bytes are dropped.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage_backends::{Condition, Store, Version};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::record::{Ending, Extent, Segment, SessionRecord};
use super::{Error, Result, condemn, layout, record};
use crate::oci::{Algorithm, Hasher, RepositoryName, is_uploaded_file};

/// The name of an upload session, unique in the registry: a UUID, as the spec asks of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(Uuid);

impl SessionId {
    pub(super) fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The session with this id.
    pub(super) fn of(id: Uuid) -> Self {
        Self(id)
    }

    pub(super) fn uuid(self) -> Uuid {
        self.0
    }
}

impl FromStr for SessionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::SessionUnknown { id: text.chars().take(100).collect() };
        let id = Uuid::try_parse(text).map_err(|_| unknown())?;
        // Only the spelling we gave out.
        if id.to_string() == text { Ok(Self(id)) } else { Err(unknown()) }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Extents in the session's own object before they move to one of their own. Arbitrary: about 25 KiB.
const MAX_EXTENTS: usize = 256;

/// A session as it was last read or written.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) record: SessionRecord,
    /// `None` for a session that is not in the store: an upload that is one request.
    version: Option<Version>,
}

impl Session {
    /// A session that nobody can come back to.
    pub(super) fn transient(name: &RepositoryName, algorithm: Algorithm) -> Self {
        let record = SessionRecord {
            repository: name.clone(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            length: 0,
            hasher: Hasher::new(algorithm).state(),
            segments: Vec::new(),
            extents: Vec::new(),
            writer: None,
            chunked: None,
            claims: Vec::new(),
            ending: None,
        };
        Self { id: SessionId::new(), record, version: None }
    }

    /// A session in the store.
    pub(super) async fn create(
        store: &dyn Store,
        name: &RepositoryName,
        algorithm: Algorithm,
    ) -> Result<Self> {
        let mut session = Self::transient(name, algorithm);
        let bytes = record::encode_unique(&session.record);
        // Nobody else has this id, so there is nothing to guard, and the put can be repeated below us.
        let put = store.put(&layout::session(session.id.uuid()), bytes, Condition::None).await;
        session.version = Some(put?);
        Ok(session)
    }

    /// A session in the store with an id that others may use as well; `None` if there is one that has not been given up.
    ///
    /// One that was given up is written over and not removed first: who removes one could hit the next.
    pub(super) async fn create_as(
        store: &dyn Store,
        name: &RepositoryName,
        algorithm: Algorithm,
        id: SessionId,
    ) -> Result<Option<Self>> {
        let mut session = Self { id, ..Self::transient(name, algorithm) };
        let key = layout::session(id.uuid());
        let condition = match record::find::<SessionRecord>(store, &key).await? {
            // Its id may be that of one that was removed, of which a tombstone stays.
            None => condemn::where_none_is(store, &key).await?,
            Some((found, version)) if found.ending == Some(Ending::Discarding) => {
                Condition::Unchanged(version)
            }
            Some(_) => return Ok(None),
        };
        let bytes = record::encode_unique(&session.record);
        session.version = record::put_unique(store, &key, bytes, condition).await?;
        Ok(session.version.is_some().then_some(session))
    }

    /// A session as it was found in the store.
    pub(super) fn found(id: Uuid, record: SessionRecord, version: Version) -> Self {
        Self { id: SessionId(id), record, version: Some(version) }
    }

    /// Reads a session of repository `name` that has not ended.
    pub(super) async fn load(store: &dyn Store, name: &RepositoryName, id: SessionId) -> Result<Self> {
        let found = record::find::<SessionRecord>(store, &layout::session(id.uuid())).await?;
        match found {
            Some((record, version))
                if record.repository == *name && !record.ending.as_ref().is_some_and(Ending::is_over) =>
            {
                Ok(Self { id, record, version: Some(version) })
            }
            _ => Err(Error::SessionUnknown { id: id.to_string() }),
        }
    }

    /// Whether clients can come back to it.
    pub(super) fn is_stored(&self) -> bool {
        self.version.is_some()
    }

    /// Stores `changed` in place of what was last read, unless another request was faster.
    pub(super) async fn save(&mut self, store: &dyn Store, changed: SessionRecord) -> Result<()> {
        let Some(version) = self.version.clone() else {
            self.record = changed;
            return Ok(());
        };
        self.write(store, changed, Condition::Unchanged(version)).await
    }

    async fn write(
        &mut self,
        store: &dyn Store,
        mut changed: SessionRecord,
        condition: Condition,
    ) -> Result<()> {
        if changed.extents.len() > MAX_EXTENTS {
            let segment = Uuid::now_v7();
            let extents = Segment { extents: std::mem::take(&mut changed.extents) };
            let key = layout::session_extents(self.id.uuid(), segment);
            store.put(&key, record::encode(&extents), Condition::None).await?;
            changed.segments.push(segment);
        }
        let key = layout::session(self.id.uuid());
        let saved = record::put_unique(store, &key, record::encode_unique(&changed), condition).await?;
        let Some(version) = saved else {
            let current = Self::load(store, &self.record.repository, self.id).await?;
            return Err(Error::OutOfOrder { id: self.id, length: current.record.length });
        };
        self.record = changed;
        self.version = Some(version);
        Ok(())
    }

    /// Names all data of a finished upload, in the store, before a blob refers to it.
    pub(super) async fn announce(&mut self, store: &dyn Store, finished: SessionRecord) -> Result<()> {
        match &self.record.ending {
            Some(ending) if Some(ending) != finished.ending.as_ref() => {
                return Err(Error::SessionUnknown { id: self.id.to_string() });
            }
            _ => {}
        }
        // Where it is not in the store yet nobody else knows of it.
        let condition = self.version.clone().map_or(Condition::None, Condition::Unchanged);
        self.write(store, finished, condition).await
    }

    /// Says that its data may be gone from now on, whatever it was to become, unless another request was faster.
    pub(super) async fn give_up(&mut self, store: &dyn Store) -> Result<()> {
        self.save(store, SessionRecord { ending: Some(Ending::Discarding), ..self.record.clone() }).await
    }

    /// Says of one that holds nothing that its id is not to be used again.
    pub(super) async fn close(&mut self, store: &dyn Store) -> Result<()> {
        self.save(store, SessionRecord { ending: Some(Ending::Closed), ..self.record.clone() }).await
    }

    /// Whether it is in the store still.
    pub(super) async fn is_there(&self, store: &dyn Store) -> Result<bool> {
        match Self::load(store, &self.record.repository, self.id).await {
            Ok(_) => Ok(true),
            Err(Error::SessionUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The extents before those in the record.
    pub(super) async fn earlier_extents(&self, store: &dyn Store) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        for segment in &self.record.segments {
            let key = layout::session_extents(self.id.uuid(), *segment);
            let (found, _) = record::find::<Segment>(store, &key)
                .await?
                .ok_or_else(|| Error::SessionUnknown { id: self.id.to_string() })?;
            extents.extend(found.extents);
        }
        Ok(extents)
    }

    /// Whether the session, as it is in the store, refers to one of these data objects or recipes.
    pub(super) async fn refers_to(
        &self,
        store: &dyn Store,
        objects: &[Uuid],
        recipes: &[Uuid],
    ) -> Result<bool> {
        let current = Self::load(store, &self.record.repository, self.id).await?;
        let earlier = current.earlier_extents(store).await?;
        Ok(earlier.iter().chain(&current.record.extents).any(|extent| match extent {
            Extent::Data { object, .. } => objects.contains(object),
            Extent::Chunks { recipe, .. } => recipes.contains(recipe),
            Extent::Zero { .. } | Extent::Inline(_) => false,
        }))
    }

    /// Forgets the session. Its data is the caller's business.
    pub(super) async fn remove(&self, store: &dyn Store) -> Result<()> {
        if !self.is_stored() {
            return Ok(());
        }
        store.delete(&layout::session(self.id.uuid())).await?;
        self.remove_extents(store).await
    }

    /// The same, if it is still as it was last read or written; says whether it was.
    ///
    /// Stores cannot delete on a condition. Where others may use the id too, a tombstone takes its place, which whoever comes writes over
    /// and a collection takes away when nobody has come for long.
    pub(super) async fn remove_unchanged(&self, store: &dyn Store) -> Result<bool> {
        let Some(version) = self.version.clone() else { return Ok(true) };
        if !is_uploaded_file(self.record.repository.as_str()) {
            return self.remove(store).await.map(|()| true);
        }
        if !condemn::bury(store, &layout::session(self.id.uuid()), version).await? {
            return Ok(false);
        }
        self.remove_extents(store).await.map(|()| true)
    }

    async fn remove_extents(&self, store: &dyn Store) -> Result<()> {
        for segment in &self.record.segments {
            store.delete(&layout::session_extents(self.id.uuid(), *segment)).await?;
        }
        Ok(())
    }
}

/// Joins small pieces into the one extent they become.
pub(super) fn inline(pieces: &[Bytes]) -> Extent {
    match pieces {
        [piece] => Extent::Inline(piece.clone()),
        pieces => Extent::Inline(pieces.concat().into()),
    }
}

/// One lock per session that is being worked on in this process.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<SessionId, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for other requests on the session.
    pub(super) async fn lock(&self, id: SessionId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lock) = locks.get(&id).and_then(Weak::upgrade) {
                lock
            } else {
                locks.retain(|_, lock| lock.strong_count() > 0);
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(id, Arc::downgrade(&lock));
                lock
            }
        };
        lock.lock_owned().await
    }
}
