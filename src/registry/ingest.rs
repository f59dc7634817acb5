//! The way of bytes from a client into the store: hashed and written once, while the next ones are read.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use storage_backends::{DataWriter, Paused, Resumed, Store, WriterState};
use uuid::Uuid;

use super::blocking::blocking;
use super::record::{Extent, SessionRecord};
use super::session::{Session, inline};
use super::{Error, Result, Rules, layout};
use crate::oci::{Digest, Hasher};

/// The body of a request.
pub type Body = BoxStream<'static, Result<Bytes, BodyError>>;

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The client closed the connection, or broke the framing.
    Interrupted,
    /// The client sent nothing for this many seconds.
    Stalled(u64),
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Interrupted => Self::BodyInterrupted,
            BodyError::Stalled(seconds) => Self::BodyStalled { seconds },
        }
    }
}

/// Bytes that are hashed and written in one go. Arbitrary: large enough that the hops between threads cost little
/// beside the hash (half a millisecond), small enough that three of them a connection are nothing.
const BATCH: usize = 1 << 20;

/// Below this, hashing costs less than handing the bytes to another thread.
const HASH_IN_PLACE: u64 = 64 << 10;

/// Some bytes of a body, and how it ended if it did.
struct Batch {
    pieces: Vec<Bytes>,
    end: Option<Result<(), BodyError>>,
}

/// Smaller pieces are copied together: a client that sends its body byte by byte must not cost a
/// whole buffer for each.
const SMALL_PIECE: usize = 4 << 10;

async fn next_batch(body: &mut Body) -> Batch {
    let mut batch = Batch { pieces: Vec::new(), end: None };
    let mut crumbs = BytesMut::new();
    let mut filled = 0;
    while filled < BATCH {
        match body.next().await {
            Some(Ok(piece)) => {
                filled += piece.len();
                if piece.len() < SMALL_PIECE {
                    crumbs.extend_from_slice(&piece);
                    continue;
                }
                if !crumbs.is_empty() {
                    batch.pieces.push(crumbs.split().freeze());
                }
                batch.pieces.push(piece);
            }
            Some(Err(error)) => {
                batch.end = Some(Err(error));
                break;
            }
            None => {
                batch.end = Some(Ok(()));
                break;
            }
        }
    }
    if !crumbs.is_empty() {
        batch.pieces.push(crumbs.freeze());
    }
    batch
}

/// Takes the first `limit` bytes out of `pieces`.
fn take_front(pieces: &mut Vec<Bytes>, limit: u64) -> Vec<Bytes> {
    let mut taken = 0;
    let mut whole = 0;
    for piece in pieces.iter() {
        if taken + piece.len() as u64 > limit {
            break;
        }
        taken += piece.len() as u64;
        whole += 1;
    }
    let rest = pieces.split_off(whole);
    let mut front = std::mem::replace(pieces, rest);
    if let (Some(next), Ok(room)) = (pieces.first_mut(), usize::try_from(limit - taken))
        && room > 0
    {
        front.push(next.split_to(room));
    }
    front
}

fn total(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// Bytes on their way into the store, after those that a session already has.
#[derive(Debug)]
pub(super) struct Ingest {
    store: Arc<dyn Store>,
    rules: Rules,
    hasher: Hasher,
    length: u64,
    /// Extents before the writer's, as far as they are not in segments of the session.
    extents: Vec<Extent>,
    /// The first bytes, until there are too many to be kept in the record.
    small: Vec<Bytes>,
    writer: Option<Active>,
    /// Data objects sealed by this request that no session refers to yet.
    sealed: Vec<Uuid>,
}

#[derive(Debug)]
struct Active {
    writer: Box<dyn DataWriter>,
    object: Uuid,
    /// The session refers to the object, so it must outlive a failure of this request.
    inherited: bool,
}

impl Ingest {
    /// Goes on where the session stands.
    pub(super) async fn resume(store: &Arc<dyn Store>, rules: Rules, session: &Session) -> Result<Self> {
        let record = &session.record;
        let lost = || Error::SessionUnknown { id: session.id.to_string() };
        let mut ingest = Self {
            store: Arc::clone(store),
            rules,
            hasher: Hasher::resume(&record.hasher).ok_or_else(lost)?,
            length: record.length,
            extents: record.extents.clone(),
            small: Vec::new(),
            writer: None,
            sealed: Vec::new(),
        };
        let Some(state) = &record.writer else { return Ok(ingest) };
        let object = state.key.rsplit('/').next().and_then(|id| Uuid::try_parse(id).ok()).ok_or_else(lost)?;
        match store.resume_data(state).await {
            Ok(Resumed::Open(writer)) => ingest.writer = Some(Active { writer, object, inherited: true }),
            Ok(Resumed::Sealed(length)) => ingest.push_sealed(object, length, true),
            Err(storage_backends::Error::DataLost { key, reason }) => {
                tracing::warn!(session = %session.id, %key, reason, "the data of an upload is lost; the client has to begin again");
                return Err(lost());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ingest)
    }

    /// Hashes with the algorithm of `digest` from here on, where nothing has been hashed yet.
    pub(super) fn expect(&mut self, digest: &Digest) {
        if self.length == 0 && self.hasher.algorithm() != digest.algorithm() {
            self.hasher = Hasher::new(digest.algorithm());
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Takes in a body to its end, saving the session now and then. What came before a broken end has been
    /// taken in too.
    pub(super) async fn receive(
        &mut self,
        body: &mut Body,
        announced: Option<u64>,
        session: &mut Session,
    ) -> Result<()> {
        let before = self.length;
        let mut batch = next_batch(body).await;
        loop {
            let actual = self.length - before + total(&batch.pieces);
            if let Some(expected) = announced.filter(|expected| actual > *expected) {
                return Err(Error::SizeMismatch { expected, actual });
            }
            if let Some(end) = batch.end {
                self.absorb_all(batch.pieces, session).await?;
                end?;
                return match announced {
                    Some(expected) if expected != actual => Err(Error::SizeMismatch { expected, actual }),
                    _ => Ok(()),
                };
            }
            let (absorbed, next) = tokio::join!(self.absorb_all(batch.pieces, session), next_batch(body));
            absorbed?;
            batch = next;
        }
    }

    async fn absorb_all(&mut self, mut pieces: Vec<Bytes>, session: &mut Session) -> Result<()> {
        while total(&pieces) > 0 {
            let run = take_front(&mut pieces, self.run_length());
            self.absorb(run).await?;
            if session.is_stored() && self.at_checkpoint() {
                self.checkpoint(session).await?;
            }
        }
        Ok(())
    }

    /// Bytes until the data object is full or the next checkpoint is due.
    fn run_length(&self) -> u64 {
        let written = match &self.writer {
            Some(active) => active.writer.length(),
            None => total(&self.small),
        };
        let most = self.store.capabilities().max_data_object;
        let room = if written >= most { most } else { most - written };
        room.min(self.checkpoint_every() - written % self.checkpoint_every())
    }

    fn at_checkpoint(&self) -> bool {
        self.writer.as_ref().is_some_and(|active| active.writer.length() % self.checkpoint_every() == 0)
    }

    fn checkpoint_every(&self) -> u64 {
        self.rules.checkpoint.next_multiple_of(self.store.capabilities().checkpoint_unit)
    }

    /// Hashes and writes, at the same time and off the async threads.
    async fn absorb(&mut self, run: Vec<Bytes>) -> Result<()> {
        let bytes = total(&run);
        let only_inline = self.extents.iter().all(|extent| matches!(extent, Extent::Inline(_)));
        if self.writer.is_none() && only_inline && self.length + bytes <= self.rules.inline {
            for piece in &run {
                self.hasher.update(piece);
            }
            self.length += bytes;
            self.small.extend(run);
            return Ok(());
        }
        let mut to_write = std::mem::take(&mut self.small);
        to_write.extend(run.iter().cloned());
        let (hashed, written) = {
            let hasher = self.hasher.clone();
            tokio::join!(hash(hasher, run, bytes), self.write(to_write))
        };
        written?;
        self.hasher = hashed;
        self.length += bytes;
        Ok(())
    }

    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let most = self.store.capabilities().max_data_object;
        if self.writer.as_ref().is_some_and(|active| active.writer.length() >= most) {
            self.seal().await?;
        }
        let active = if let Some(active) = &mut self.writer {
            active
        } else {
            let object = Uuid::now_v7();
            let writer = self.store.create_data(&layout::data(object)).await?;
            self.writer.insert(Active { writer, object, inherited: false })
        };
        active.writer.write(pieces).await?;
        Ok(())
    }

    /// Ends the current data object, if any; the next bytes begin another.
    async fn seal(&mut self) -> Result<()> {
        if let Some(Active { writer, object, inherited }) = self.writer.take() {
            let length = writer.seal().await?;
            self.push_sealed(object, length, inherited);
        }
        Ok(())
    }

    fn push_sealed(&mut self, object: Uuid, length: u64, inherited: bool) {
        if length > 0 {
            self.extents.push(Extent::Data { object, offset: 0, length });
        }
        if !inherited {
            self.sealed.push(object);
        }
    }

    /// Makes what has come so far safe against a crash, where the store can do that here.
    async fn checkpoint(&mut self, session: &mut Session) -> Result<()> {
        let Some(active) = &mut self.writer else { return Ok(()) };
        let Some(state) = active.writer.checkpoint().await? else { return Ok(()) };
        // From here on the session may refer to the data, even if saving it seems to fail.
        active.inherited = true;
        self.sealed.clear();
        self.save(session, Some(state)).await
    }

    /// Puts everything aside and saves the session.
    pub(super) async fn pause(mut self, session: &mut Session) -> Result<()> {
        let writer = self.put_aside().await?;
        let saved = self.save(session, writer).await;
        // Another request was faster, perhaps on top of what this one did save. A session that is gone may have
        // been finished with these bytes.
        if matches!(saved, Err(Error::OutOfOrder { .. }))
            && let Ok(false) = session.refers_to(self.store.as_ref(), &self.sealed).await
        {
            self.abandon().await;
        }
        saved
    }

    async fn save(&mut self, session: &mut Session, writer: Option<WriterState>) -> Result<()> {
        let record = SessionRecord {
            length: self.length,
            hasher: self.hasher.state(),
            extents: self.extents.clone(),
            writer,
            ..session.record.clone()
        };
        session.save(self.store.as_ref(), record).await?;
        // Saving may have moved the extents into a segment.
        self.extents.clone_from(&session.record.extents);
        Ok(())
    }

    async fn put_aside(&mut self) -> Result<Option<WriterState>> {
        if !self.small.is_empty() {
            self.extents.push(inline(&std::mem::take(&mut self.small)));
        }
        let Some(Active { writer, object, inherited }) = self.writer.take() else { return Ok(None) };
        match writer.pause().await? {
            Paused::Open(state) => Ok(Some(state)),
            Paused::Sealed(length) => {
                self.push_sealed(object, length, inherited);
                Ok(None)
            }
        }
    }

    /// Ends the data and tells what it is: the digest, and the extents behind those in segments.
    pub(super) async fn finish(&mut self) -> Result<(Digest, Vec<Extent>)> {
        self.seal().await?;
        if !self.small.is_empty() {
            self.extents.push(inline(&std::mem::take(&mut self.small)));
        }
        Ok((self.hasher.clone().finish(), self.extents.clone()))
    }

    /// Drops the bytes that this request has brought, as far as no session refers to them. Best effort: what
    /// stays is garbage that nothing refers to.
    pub(super) async fn abandon(self) {
        if let Some(Active { writer, inherited: false, .. }) = self.writer
            && let Err(error) = writer.discard().await
        {
            tracing::warn!(%error, "failed to discard the data of a failed upload");
        }
        for object in self.sealed {
            if let Err(error) = self.store.delete(&layout::data(object)).await {
                tracing::warn!(%error, "failed to delete the data of a failed upload");
            }
        }
    }
}

async fn hash(mut hasher: Hasher, pieces: Vec<Bytes>, bytes: u64) -> Hasher {
    let update = move || {
        for piece in &pieces {
            hasher.update(piece);
        }
        hasher
    };
    if bytes <= HASH_IN_PLACE { update() } else { blocking(update).await }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn taking_from_the_front_loses_and_reorders_nothing(
            lengths in proptest::collection::vec(0usize..20, 0..10),
            limit in 1u64..100,
        ) {
            let mut counter = 0u8;
            let mut pieces: Vec<Bytes> = lengths
                .iter()
                .map(|n| (0..*n).map(|_| { counter = counter.wrapping_add(1); counter }).collect())
                .collect();
            let all = pieces.concat();
            let front = take_front(&mut pieces, limit);
            prop_assert_eq!(total(&front), limit.min(all.len() as u64));
            prop_assert_eq!([front.concat(), pieces.concat()].concat(), all);
        }
    }
}
