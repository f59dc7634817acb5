//! The way of bytes from a client into the store: hashed and written once, while the next ones are read.
//!
//! A small blob is kept in its record, a large one that is not compressed goes into packs chunk by chunk
//! ([`Chunking`]), and whatever else into data objects of its own. Which of them it is, is known when enough bytes have come.

mod batch;
mod chunking;
mod objects;
mod runs;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use storage_backends::{Store, WriterState};

use super::blocking::blocking;
use super::chunk_index::ChunkIndex;
use super::claims::{Claim, Claims, Fate};
use super::recipe::Entry;
use super::record::{Ending, Extent, SessionRecord};
use super::session::{Session, inline};
use super::{Error, QuotaExceeded, Result, Rules};
use crate::chunk;
use crate::oci::{Digest, Hasher};
use batch::{next_batch, take_front, total};
use chunking::Chunking;
use objects::{Objects, PutAside, Sealed};

pub(super) use objects::object_of;

/// The body of a request.
pub type Body = BoxStream<'static, Result<Bytes, BodyError>>;

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// The client closed the connection, or broke the framing.
    Interrupted,
    /// The client sent nothing for this many seconds.
    Stalled(u64),
    /// What comes next cannot be made out, for this reason.
    Refused(String),
    /// What comes next cannot be had now, for this reason.
    Unavailable(String),
    /// The repository may not have so much.
    OverQuota(QuotaExceeded),
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Interrupted => Self::BodyInterrupted,
            BodyError::Stalled(seconds) => Self::BodyStalled { seconds },
            BodyError::Refused(reason) => Self::BodyRefused { reason },
            BodyError::Unavailable(reason) => Self::BodyUnavailable { reason },
            BodyError::OverQuota(exceeded) => Self::QuotaExceeded(exceeded),
        }
    }
}

/// How often it is asked what becomes of data that a collection is just deciding on, before the client has to ask again, and
/// how long that takes each time: a collection reads all records in between.
const WAITS: usize = 20;
const WAIT: Duration = Duration::from_millis(250);

/// How often it is looked after a slow upload, at most.
const SOONEST: Duration = Duration::from_millis(100);

/// Below this, hashing costs less than handing the bytes to another thread.
const HASH_IN_PLACE: u64 = 64 << 10;

/// Bytes on their way into the store, after those that a session already has.
#[derive(Debug)]
pub(super) struct Ingest {
    store: Arc<dyn Store>,
    rules: Rules,
    index: Arc<ChunkIndex>,
    claims: Arc<Claims>,
    claim: Arc<Claim>,
    /// When the session was written, or this request began.
    saved: Instant,
    hasher: Hasher,
    length: u64,
    /// Extents before those of the object that is being written, as far as they are not in segments of the session.
    extents: Vec<Extent>,
    /// The first bytes, until it is known how the blob is stored.
    small: Vec<Bytes>,
    /// Set where it is stored in chunks.
    chunking: Option<Box<Chunking>>,
    /// Its packs, or its own data.
    objects: Objects,
}

impl Ingest {
    /// Goes on where the session stands.
    pub(super) async fn resume(
        store: &Arc<dyn Store>,
        rules: Rules,
        index: &Arc<ChunkIndex>,
        claims: &Arc<Claims>,
        session: &mut Session,
    ) -> Result<Self> {
        let claim = Arc::new(claims.begin(&session.record.claims));
        // Whoever wrote them may have died before it was done.
        assure(&claim, session, store.as_ref()).await?;
        let record = &session.record;
        let lost = || Error::SessionUnknown { id: session.id.to_string() };
        let chunking = record.chunked.map(|passed| Box::new(Chunking::resume(rules, index, passed)));
        let mut ingest = Self {
            store: Arc::clone(store),
            rules,
            index: Arc::clone(index),
            claims: Arc::clone(claims),
            claim: Arc::clone(&claim),
            saved: Instant::now(),
            hasher: Hasher::resume(&record.hasher).ok_or_else(lost)?,
            length: record.length,
            extents: record.extents.clone(),
            small: Vec::new(),
            chunking,
            objects: Objects::new(store, claim),
        };
        let Some(state) = &record.writer else { return Ok(ingest) };
        match ingest.objects.resume(state, object_of(state).ok_or_else(lost)?).await {
            Ok(sealed) => ingest.push_sealed(sealed),
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
            self.keep_alive(session).await?;
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
            let mut next = pin!(next_batch(body));
            let early = {
                let absorbing = pin!(self.absorb_all(batch.pieces, session));
                match select(absorbing, next.as_mut()).await {
                    Either::Left((absorbed, _)) => absorbed.map(|()| None)?,
                    Either::Right((batch, absorbing)) => absorbing.await.map(|()| Some(batch))?,
                }
            };
            batch = match early {
                Some(batch) => batch,
                None => self.wait(next, session).await?,
            };
        }
    }

    /// Waits for bytes, without appearing dead.
    async fn wait<T>(
        &mut self,
        mut next: impl Future<Output = T> + Unpin,
        session: &mut Session,
    ) -> Result<T> {
        loop {
            match tokio::time::timeout(self.claims.every().max(SOONEST), &mut next).await {
                Ok(next) => return Ok(next),
                Err(_) => self.keep_alive(session).await?,
            }
        }
    }

    /// Keeps a collection from taking this upload for one that nobody goes on with, or what it uses for what nobody does.
    async fn keep_alive(&mut self, session: &mut Session) -> Result<()> {
        if session.is_stored() && self.saved.elapsed() >= self.rules.abandoned / 4 {
            session.save(self.store.as_ref(), session.record.clone()).await?;
            self.saved = Instant::now();
        }
        let generation = self.claims.look_now_and_then().await?;
        self.index.follow(generation);
        self.claim.follow(generation);
        Ok(())
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
        let every = self.checkpoint_every();
        if self.chunking.is_some() {
            return every - self.length % every;
        }
        let written = match self.objects.current() {
            Some(object) => object.length,
            None => total(&self.small),
        };
        let most = self.store.capabilities().max_data_object;
        let room = if written >= most { most } else { most - written };
        room.min(every - written % every)
    }

    fn at_checkpoint(&self) -> bool {
        let written = match self.objects.current() {
            _ if self.chunking.is_some() => self.length,
            Some(object) => object.length,
            None => return false,
        };
        written % self.checkpoint_every() == 0
    }

    fn checkpoint_every(&self) -> u64 {
        self.rules.checkpoint.next_multiple_of(self.store.capabilities().checkpoint_unit)
    }

    /// Hashes and writes, at the same time and off the async threads.
    async fn absorb(&mut self, run: Vec<Bytes>) -> Result<()> {
        let bytes = total(&run);
        if self.is_undecided() && self.length + bytes <= self.held() {
            self.hasher = hash(self.hasher.clone(), run.clone(), bytes).await;
            self.length += bytes;
            self.small.extend(run);
            return Ok(());
        }
        let mut to_write = self.take_small();
        to_write.extend(run.iter().cloned());
        if self.is_undecided() {
            self.decide(&to_write);
        }
        let (hashed, written) = {
            let hasher = self.hasher.clone();
            tokio::join!(hash(hasher, run, bytes), self.write(to_write))
        };
        written?;
        self.hasher = hashed;
        self.length += bytes;
        Ok(())
    }

    /// Takes over an extent of another record of the blob as it is.
    pub(super) fn keep(&mut self, extent: Extent) {
        self.length += extent.length();
        self.extents.push(extent);
    }

    /// Takes over a part of a recipe of another record of the blob: entries as they are, and chunks whose stored bytes are given at
    /// another place.
    pub(super) async fn copy(
        &mut self,
        entries: Vec<(Entry, Option<Bytes>)>,
        session: &mut Session,
    ) -> Result<()> {
        self.keep_alive(session).await?;
        self.length += entries.iter().map(|(entry, _)| entry.length()).sum::<u64>();
        let chunking = self.chunking.get_or_insert_with(|| Box::new(Chunking::new(self.rules, &self.index)));
        chunking.copy(self.store.as_ref(), &mut self.objects, &mut self.extents, entries).await
    }

    /// Whether everything that came so far is in `small` or in the record.
    fn is_undecided(&self) -> bool {
        let only_inline = self.extents.iter().all(|extent| matches!(extent, Extent::Inline(_)));
        self.objects.current().is_none() && self.chunking.is_none() && only_inline
    }

    /// Bytes that are held until it is decided how a blob is stored.
    fn held(&self) -> u64 {
        self.rules.inline.max(self.rules.chunk_from.unwrap_or(0))
    }

    /// The bytes of a blob that is not decided yet, those in the record too: they are the beginning of whatever it is.
    fn take_small(&mut self) -> Vec<Bytes> {
        let mut small = Vec::new();
        if self.is_undecided() {
            small.extend(self.extents.drain(..).filter_map(|extent| match extent {
                Extent::Inline(bytes) => Some(bytes),
                _ => None,
            }));
        }
        small.append(&mut self.small);
        small
    }

    /// Decides how a blob is stored that begins with these bytes.
    fn decide(&mut self, bytes: &[Bytes]) {
        if self.rules.chunk_from.is_none() || chunk::is_compressed(bytes) {
            return;
        }
        self.chunking = Some(Box::new(Chunking::new(self.rules, &self.index)));
        // For the uploads to come: this one does not wait.
        let index = Arc::clone(&self.index);
        tokio::spawn(async move { index.refresh().await });
    }

    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        if let Some(chunking) = &mut self.chunking {
            return chunking.write(self.store.as_ref(), &mut self.objects, &mut self.extents, pieces).await;
        }
        let most = self.store.capabilities().max_data_object;
        if self.objects.current().is_some_and(|object| object.length >= most) {
            self.seal().await?;
        }
        self.objects.write(pieces).await
    }

    /// Ends the current data object, if any; the next bytes begin another.
    async fn seal(&mut self) -> Result<()> {
        let sealed = self.objects.seal().await?;
        self.push_sealed(sealed);
        Ok(())
    }

    /// A pack is in the recipes that name it; other data is an extent itself.
    fn push_sealed(&mut self, sealed: Option<Sealed>) {
        if let Some(Sealed { object, length }) = sealed
            && length > 0
            && self.chunking.is_none()
        {
            self.extents.push(Extent::Data { object, offset: 0, length });
        }
    }

    /// Stores the chunks that came so far, and ends their recipe.
    pub(super) async fn flush(&mut self) -> Result<()> {
        match &mut self.chunking {
            Some(chunking) => chunking.flush(self.store.as_ref(), &mut self.objects, &mut self.extents).await,
            None => Ok(()),
        }
    }

    /// Makes what has come so far safe against a crash, where the store can do that here.
    async fn checkpoint(&mut self, session: &mut Session) -> Result<()> {
        self.flush().await?;
        let state = self.objects.checkpoint().await?;
        if state.is_none() {
            if self.chunking.is_none() {
                return Ok(());
            }
            // The recipes name places in a pack that is not safe yet.
            self.seal().await?;
        }
        // From here on the session may refer to the data, even if saving it seems to fail.
        self.entrust();
        self.save(session, state).await
    }

    fn entrust(&mut self) {
        self.objects.entrust();
        if let Some(chunking) = &mut self.chunking {
            chunking.entrust();
        }
    }

    /// Puts everything aside and saves the session.
    pub(super) async fn pause(mut self, session: &mut Session) -> Result<()> {
        let writer = self.put_aside().await?;
        let saved = self.save(session, writer).await;
        if matches!(saved, Err(Error::OutOfOrder { .. })) {
            self.abandon_unless_in(session).await;
        }
        saved
    }

    /// Drops the bytes of a request that another one has overtaken, perhaps on top of what this one did save. A session that
    /// is gone may have been finished with these bytes.
    pub(super) async fn abandon_unless_in(self, session: &Session) {
        let recipes = self.chunking.as_ref().map_or(&[][..], |chunking| chunking.written());
        if let Ok(false) = session.refers_to(self.store.as_ref(), self.objects.sealed(), recipes).await {
            self.abandon().await;
        }
    }

    async fn save(&mut self, session: &mut Session, writer: Option<WriterState>) -> Result<()> {
        let record = SessionRecord {
            length: self.length,
            hasher: self.hasher.state(),
            extents: self.extents.clone(),
            writer,
            chunked: self.chunking.as_ref().map(|chunking| chunking.passed()),
            claims: self.claim.list(),
            ..session.record.clone()
        };
        session.save(self.store.as_ref(), record).await?;
        self.saved = Instant::now();
        // Saving may have moved the extents into a segment.
        self.extents.clone_from(&session.record.extents);
        if session.is_stored() { assure(&self.claim, session, self.store.as_ref()).await } else { Ok(()) }
    }

    /// Names all data of a finished upload in its session, before a blob refers to it.
    pub(super) async fn announce(&mut self, session: &mut Session, digest: &Digest) -> Result<()> {
        let record = SessionRecord {
            length: self.length,
            hasher: self.hasher.state(),
            extents: self.extents.clone(),
            writer: None,
            claims: self.claim.list(),
            ending: Some(Ending::Finishing(digest.clone())),
            ..session.record.clone()
        };
        session.announce(self.store.as_ref(), record).await?;
        assure(&self.claim, session, self.store.as_ref()).await
    }

    async fn put_aside(&mut self) -> Result<Option<WriterState>> {
        self.settle().await?;
        self.flush().await?;
        Ok(match self.objects.pause().await? {
            PutAside::Nothing => None,
            PutAside::Open(state) => Some(state),
            PutAside::Sealed(sealed) => {
                self.push_sealed(Some(sealed));
                None
            }
        })
    }

    /// Puts what was held somewhere: who sends so little at a time, or so little at all, gains nothing by chunks.
    async fn settle(&mut self) -> Result<()> {
        if self.is_undecided() && self.length > self.rules.inline {
            let small = self.take_small();
            return self.write(small).await;
        }
        if !self.small.is_empty() {
            self.extents.push(inline(&std::mem::take(&mut self.small)));
        }
        Ok(())
    }

    /// Ends the data and tells what it is: the digest, and the extents behind those in segments.
    pub(super) async fn finish(&mut self) -> Result<(Digest, Vec<Extent>)> {
        self.settle().await?;
        self.flush().await?;
        self.seal().await?;
        Ok((self.hasher.clone().finish(), self.extents.clone()))
    }

    /// Drops the bytes that this request has brought, as far as no session refers to them. Best effort: what
    /// stays is garbage that nothing refers to.
    pub(super) async fn abandon(self) {
        if let Some(chunking) = self.chunking {
            chunking.abandon(self.store.as_ref()).await;
        }
        self.objects.abandon().await;
    }
}

/// Makes sure that all data stays that the session names; else it ends.
async fn assure(claim: &Claim, session: &mut Session, store: &dyn Store) -> Result<()> {
    let mut fate = claim.fate().await?;
    for _ in 0..WAITS {
        if fate != Fate::Undecided {
            break;
        }
        tokio::time::sleep(WAIT).await;
        fate = claim.fate().await?;
    }
    if fate == Fate::Undecided {
        // The session names what it uses: it goes on from here, or ends, when it is decided.
        return Err(Error::Collecting);
    }
    if fate == Fate::Deleted {
        tracing::warn!(session = %session.id, "data that an upload uses was collected; the client has to begin again");
        // Whoever was faster hears the same.
        match session.give_up(store).await {
            Ok(()) | Err(Error::OutOfOrder { .. }) => {}
            Err(error) => return Err(error),
        }
        return Err(Error::SessionUnknown { id: session.id.to_string() });
    }
    claim.clear();
    Ok(())
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
