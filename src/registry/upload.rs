//! Uploads: begin, append, finish, cancel.
//!
//! The order of writes when an upload finishes is what makes "201 means durable" true: the data is sealed, then the session
//! names all of it, then the blob's record is published, then the blob becomes a member of the repository, then the session
//! goes. A crash between any two leaves garbage, or a session that can be finished again. And at no moment is data that a
//! blob will have needed by nobody, so that a collection may look at any time.

use std::future::ready;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use storage_backends::Condition;
use uuid::Uuid;

use super::ingest::{Body, BodyError, Ingest};
use super::record::{BlobRecord, Ending, Extent, Membership};
use super::session::{Session, SessionId};
use super::{ATTEMPTS, Error, Registry, Result, condemn, layout, read, record};
use crate::oci::{Algorithm, Digest, RepositoryName};

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadStatus {
    /// The session.
    pub id: SessionId,
    /// Bytes received and safe.
    pub length: u64,
}

/// What a client says of the bytes that it sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Append {
    /// Where in the blob they begin.
    pub start: Option<u64>,
    /// How many they are.
    pub length: Option<u64>,
}

impl Registry {
    /// Begins an upload to repository `name` (end-4a). With the algorithm of the digest that will close it, the
    /// bytes need not be read again.
    pub async fn begin_upload(&self, name: &RepositoryName, algorithm: Algorithm) -> Result<UploadStatus> {
        self.store.room().await?;
        self.quotas.check(name, 1).await?;
        let session = Session::create(self.store.as_ref(), name, algorithm).await?;
        Ok(UploadStatus { id: session.id, length: 0 })
    }

    /// Where an upload stands (end-13). While a request is adding to it, where it last was safe.
    pub async fn upload_status(&self, name: &RepositoryName, id: SessionId) -> Result<UploadStatus> {
        let session = Session::load(self.store.as_ref(), name, id).await?;
        Ok(UploadStatus { id, length: session.record.length })
    }

    /// Adds the bytes of `body` (end-5). When it breaks off, what had come is kept.
    pub async fn append(
        &self,
        name: &RepositoryName,
        id: SessionId,
        append: Append,
        body: &mut Body,
    ) -> Result<UploadStatus> {
        let _lock = self.sessions.lock(id).await;
        let mut session = Session::load(self.store.as_ref(), name, id).await?;
        if session.record.ending.is_some() {
            return Err(Error::SessionUnknown { id: id.to_string() });
        }
        check_start(&session, append)?;
        self.store.room().await?;
        self.bound_by_quotas(name, session.record.length, append, body).await?;
        let mut ingest =
            Ingest::resume(&self.store, self.rules, &self.index, &self.claims, &mut session).await?;
        match ingest.receive(body, append.length, &mut session).await {
            Err(error) if !error.is_of_body() => {
                ingest.abandon().await;
                Err(error)
            }
            received => {
                ingest.pause(&mut session).await?;
                received?;
                Ok(UploadStatus { id, length: session.record.length })
            }
        }
    }

    /// Adds the bytes of `body` and publishes the whole as blob `digest` (end-6).
    pub async fn finish_upload(
        &self,
        name: &RepositoryName,
        id: SessionId,
        append: Append,
        body: &mut Body,
        digest: &Digest,
    ) -> Result<()> {
        let _lock = self.sessions.lock(id).await;
        let session = Session::load(self.store.as_ref(), name, id).await?;
        check_start(&session, append)?;
        let session = self.complete(session, append, body, digest).await?;
        self.forget(&session).await;
        Ok(())
    }

    /// Publishes what an upload holds as blob `digest`, and leaves the session to the caller, who needs to be able to do so
    /// again.
    pub(super) async fn publish_upload(
        &self,
        name: &RepositoryName,
        id: SessionId,
        digest: &Digest,
    ) -> Result<Session> {
        let _lock = self.sessions.lock(id).await;
        let session = Session::load(self.store.as_ref(), name, id).await?;
        self.complete(session, Append::default(), &mut stream::empty().boxed(), digest).await
    }

    /// Takes in and publishes a blob in one request (end-4b).
    pub async fn push_blob(
        &self,
        name: &RepositoryName,
        append: Append,
        body: &mut Body,
        digest: &Digest,
    ) -> Result<()> {
        self.store.room().await?;
        let session = Session::transient(name, digest.algorithm());
        let session = self.complete(session, append, body, digest).await?;
        self.forget(&session).await;
        Ok(())
    }

    /// Ends an upload and frees what it holds (end-14). One that was about to become a blob when its server died comes to that end:
    /// its blob may be there already, so what it holds is not to be freed any more.
    pub async fn cancel_upload(&self, name: &RepositoryName, id: SessionId) -> Result<()> {
        let _lock = self.sessions.lock(id).await;
        let mut session = Session::load(self.store.as_ref(), name, id).await?;
        let Some(Ending::Finishing(digest)) = session.record.ending.clone() else {
            return self.discard(&mut session).await;
        };
        let nothing = &mut stream::empty().boxed();
        let session = self.complete(session, Append::default(), nothing, &digest).await?;
        self.forget(&session).await;
        Ok(())
    }

    /// Gives up what an upload holds, and leaves the session, so that another one may be begun with its id.
    pub(super) async fn free_upload(&self, name: &RepositoryName, id: SessionId) -> Result<()> {
        let _lock = self.sessions.lock(id).await;
        let mut session = Session::load(self.store.as_ref(), name, id).await?;
        self.free(&mut session).await?;
        Ok(())
    }

    async fn complete(
        &self,
        mut session: Session,
        append: Append,
        body: &mut Body,
        digest: &Digest,
    ) -> Result<Session> {
        let store = self.store.as_ref();
        // Nobody else was about to publish what it holds.
        let is_first = session.record.ending.is_none();
        let name = &session.record.repository.clone();
        let member = if self.quotas.has(name) { self.find_member(name, digest).await } else { Ok(None) };
        if let Some(member) = record::unless_damaged(member)? {
            // What the repository has already costs nothing, and has an end.
            *body = no_longer_than(member.size, session.record.length, take(body)).boxed();
        } else {
            self.bound_by_quotas(name, session.record.length, append, body).await?;
        }
        let mut ingest =
            Ingest::resume(&self.store, self.rules, &self.index, &self.claims, &mut session).await?;
        ingest.expect(digest);
        let before = ingest.length();
        if let Err(error) = ingest.receive(body, append.length, &mut session).await {
            if session.is_stored() && error.is_of_body() {
                ingest.pause(&mut session).await?;
            } else {
                ingest.abandon().await;
            }
            return Err(error);
        }
        if session.record.ending.is_some() && ingest.length() > before {
            // An earlier attempt has taken in the last bytes already.
            ingest.abandon().await;
            return Err(Error::OutOfOrder { id: session.id, length: before });
        }
        let (recipes, unneeded) = match self.publish(&mut session, &mut ingest, digest).await {
            Ok(Published::New(recipes)) => (recipes, Vec::new()),
            Ok(Published::Already(ours)) => (Vec::new(), ours),
            Err(error @ Error::OutOfOrder { .. }) => {
                // Another request was faster, perhaps with what this one has written.
                ingest.abandon_unless_in(&session).await;
                return Err(error);
            }
            Err(error @ (Error::DigestMismatch { .. } | Error::QuotaExceeded(_))) => {
                ingest.abandon().await;
                if session.is_stored()
                    && let Err(error) = self.discard(&mut session).await
                {
                    tracing::warn!(%error, session = %session.id, "failed to discard a refused upload");
                }
                return Err(error);
            }
            // The record may have been written, so the data has to stay.
            Err(error) => return Err(error),
        };
        // Nor has anybody taken it up since, or can from now on; else a collection finds what is not needed.
        if is_first && !unneeded.is_empty() && session.give_up(store).await.is_ok() {
            self.discard_extents(&unneeded).await;
        }
        // It claims nothing since it was announced, and what it remembers takes as much memory as what the index reads.
        drop(ingest);
        self.index.publish(recipes).await;
        Ok(session)
    }

    /// Removes a session whose blob is there. One that stays is finished again by whoever comes, or collected.
    pub(super) async fn forget(&self, session: &Session) {
        if let Err(error) = session.remove(self.store.as_ref()).await {
            tracing::warn!(%error, session = %session.id, "failed to remove a finished upload session");
        }
    }

    /// Refuses a body of which a repository may not have what is announced behind `before` bytes, and lets it fail where it turns out to
    /// be too much: not each one has a length.
    async fn bound_by_quotas(
        &self,
        name: &RepositoryName,
        before: u64,
        append: Append,
        body: &mut Body,
    ) -> Result<()> {
        if !self.quotas.has(name) {
            return Ok(());
        }
        let announced = before.saturating_add(append.length.unwrap_or_default());
        self.quotas.check(name, announced).await?;
        *body = self.quotas.bounded(name, before, take(body)).boxed();
        Ok(())
    }

    /// Makes the blob what the session holds, and a member of the repository.
    async fn publish(
        &self,
        session: &mut Session,
        ingest: &mut Ingest,
        digest: &Digest,
    ) -> Result<Published> {
        let store = self.store.as_ref();
        let (mut actual, tail) = ingest.finish().await?;
        let mut extents = session.earlier_extents(store).await?;
        extents.extend(tail);
        let record = BlobRecord { size: ingest.length(), extents };
        if record.extents.iter().map(Extent::length).sum::<u64>() != record.size {
            tracing::error!(session = %session.id, "an upload does not add up; the client has to begin again");
            return Err(Error::SessionUnknown { id: session.id.to_string() });
        }
        if actual.algorithm() != digest.algorithm() {
            // The client did not say which algorithm it would close with, so the bytes are read once more.
            actual = read::digest(&self.source, &record, digest.algorithm()).await?;
        }
        if actual != *digest {
            return Err(Error::DigestMismatch { expected: digest.clone(), actual });
        }
        let reserved = self.quotas.take_content(&session.record.repository, digest, record.size).await?;
        if record.needs_data() {
            ingest.announce(session, digest).await?;
        }
        for _ in 0..ATTEMPTS {
            let published = self.put_record(session, digest, &record).await?;
            // A collection may take the record away just then: it belonged to no repository.
            if self.join(&session.record.repository, digest, record.size).await? {
                reserved.keep();
                return Ok(published);
            }
        }
        Err(Error::Record { key: layout::blob(digest), reason: "it is deleted each time".to_owned() })
    }

    /// Writes a blob's record, unless there is one.
    async fn put_record(&self, session: &Session, digest: &Digest, record: &BlobRecord) -> Result<Published> {
        let key = layout::blob(digest);
        let bytes = record::encode_unique(record);
        let mut condition = Condition::Absent;
        for _ in 0..ATTEMPTS {
            let put = self.store.put(&key, bytes.clone(), condition).await;
            // Whatever the answer, what is stored decides: a reply may have been lost.
            let Err(refused) = put else { return Ok(Published::new(record)) };
            match self.find_blob(digest).await? {
                Some(existing) if existing == *record => return Ok(Published::new(record)),
                Some(existing) if existing.size == record.size => {
                    return Ok(Published::Already(record.extents.clone()));
                }
                Some(existing) => {
                    let reason =
                        format!("it has {} bytes, and a blob of that digest {}", existing.size, record.size);
                    return Err(Error::Record { key, reason });
                }
                None if refused.is_refusal() => {
                    condition = condemn::where_none_is(self.store.as_ref(), &key).await?;
                    // The blob may have come by this very session and be deleted since, and its data too.
                    if record.needs_data() && !session.is_there(self.store.as_ref()).await? {
                        return Err(Error::SessionUnknown { id: session.id.to_string() });
                    }
                }
                None => return Err(refused.into()),
            }
        }
        Err(Error::Record { key, reason: "it can neither be read nor written".to_owned() })
    }

    /// Makes a blob a member of a repository, durably; `false` if the blob is not there any more.
    pub(super) async fn join(&self, name: &RepositoryName, digest: &Digest, size: u64) -> Result<bool> {
        let store = self.store.as_ref();
        let key = layout::membership(name, digest);
        let joined = store.put(&key, record::encode_unique(&Membership { size }), Condition::None).await?;
        // Behind the membership: a collection that did not see it has marked the record before.
        if condemn::spare::<BlobRecord>(store, &layout::blob(digest)).await?.is_some() {
            return Ok(true);
        }
        condemn::bury(store, &key, joined).await?;
        Ok(false)
    }

    /// Ends a session, frees its data, and removes it.
    pub(super) async fn discard(&self, session: &mut Session) -> Result<()> {
        if self.free(session).await? {
            // Who has taken it up since has one of their own.
            session.remove_unchanged(self.store.as_ref()).await?;
        }
        Ok(())
    }

    /// Ends a session and frees its data; `false` if somebody may be publishing it.
    async fn free(&self, session: &mut Session) -> Result<bool> {
        let store = self.store.as_ref();
        for attempt in 1.. {
            if let Some(Ending::Finishing(_)) = session.record.ending {
                // Neither the data nor the session is ours to free any more.
                return Ok(false);
            }
            match session.give_up(store).await {
                Ok(()) => break,
                // Another replica is adding to it, and will learn of the end the next time.
                Err(Error::OutOfOrder { .. }) if attempt < ATTEMPTS => {
                    *session = Session::load(store, &session.record.repository, session.id).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.free_given_up(session).await?;
        Ok(true)
    }

    /// Frees the data of a session that was given up.
    pub(super) async fn free_given_up(&self, session: &Session) -> Result<()> {
        let store = self.store.as_ref();
        let mut extents = session.earlier_extents(store).await?;
        extents.extend(session.record.extents.iter().cloned());
        if let Some(state) = &session.record.writer
            && let Err(error) = store.discard_data(state).await
        {
            tracing::warn!(%error, session = %session.id, "failed to discard the data of a cancelled upload");
        }
        self.discard_extents(&extents).await;
        Ok(())
    }

    /// Frees data that nothing refers to. Best effort: what stays is garbage.
    async fn discard_extents(&self, extents: &[Extent]) {
        for extent in extents {
            match extent {
                Extent::Data { object, .. } => self.discard_data(*object).await,
                Extent::Chunks { recipe, .. } => self.discard_recipe(*recipe).await,
                Extent::Zero { .. } | Extent::Inline(_) => {}
            }
        }
    }

    async fn discard_data(&self, object: Uuid) {
        if let Err(error) = self.store.delete(&layout::data(object)).await {
            tracing::warn!(%error, %object, "failed to delete unneeded data");
        }
    }

    /// Frees a recipe of a blob that was not published, and the packs that were written for it: nobody else has been told
    /// of their chunks.
    async fn discard_recipe(&self, id: Uuid) {
        let store = self.store.as_ref();
        let freed = async {
            for pack in self.source.recipes.paged(id).await?.0.own {
                self.discard_data(pack).await;
            }
            store.delete(&layout::recipe(id)).await
        };
        if let Err(error) = freed.await {
            tracing::warn!(%error, recipe = %id, "failed to delete unneeded chunks");
        }
    }
}

/// What publishing found.
enum Published {
    /// The record is ours, with these recipes.
    New(Vec<Uuid>),
    /// The blob was there, in other extents; these are not needed.
    Already(Vec<Extent>),
}

impl Published {
    fn new(record: &BlobRecord) -> Self {
        Self::New(record.recipes())
    }
}

/// A body, of which another one is to be made.
fn take(body: &mut Body) -> Body {
    std::mem::replace(body, stream::empty().boxed())
}

/// A body that fails where there is more of it behind `before` bytes than the blob has.
fn no_longer_than(
    size: u64,
    before: u64,
    body: Body,
) -> impl Stream<Item = std::result::Result<Bytes, BodyError>> {
    body.scan(before, move |passed, piece| {
        *passed = passed.saturating_add(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        let longer = || BodyError::Refused(format!("the blob of this digest has {size} bytes"));
        ready(Some(if *passed > size { Err(longer()) } else { piece }))
    })
}

fn check_start(session: &Session, append: Append) -> Result<()> {
    match append.start {
        Some(start) if start != session.record.length => {
            Err(Error::OutOfOrder { id: session.id, length: session.record.length })
        }
        _ => Ok(()),
    }
}
