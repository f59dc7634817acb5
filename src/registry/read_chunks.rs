//! Reading what is stored in chunks.
//!
//! Neighbours in a pack are read in one go and decoded off the async threads, a few such reads ahead of the client, so
//! both a disk's round trips and its processors are used. Each chunk is checked against its hash: one that is damaged
//! breaks the stream and is never handed on.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::ByteStream;
use uuid::Uuid;

use super::blocking::{blocking, detached};
use super::layout;
use super::recipe::{Entry, Place};
use super::source::Source;
use crate::chunk::{ChunkId, DamagedChunk, Decoder, zeros};

/// Bytes in a pack between two chunks that are read and thrown away rather than read round.
const GAP: u64 = 32 << 10;

/// How far a reader reaches.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// Bytes of a blob that are read in one go, at most, unless one chunk has more.
    run: u64,
    /// Reads ahead of the client. Each is a task, which goes on while the client takes what is before it.
    ahead: usize,
    /// Whether all parts of a blob have the same runs, so that what was fetched for one reader is of use to the next; else
    /// no chunk is read that has no byte in a part.
    fixed: bool,
}

impl Reach {
    /// Where reading costs little: one is sent, and behind it there are enough to decode on some processors while others
    /// are on their way.
    const NEAR: Self = Self { run: 1 << 20, ahead: 6, fixed: false };

    /// Where each read is a request, which costs as much as a few MiB do: a quarter as many, with twice the bytes on their way.
    const FAR: Self = Self { run: 4 << 20, ahead: 3, fixed: true };

    fn of(source: &Source) -> Self {
        if source.packs.keeps() { Self::FAR } else { Self::NEAR }
    }
}

thread_local! {
    /// Kept from one read to the next: to make one takes longer than to decode a small chunk.
    static DECODER: RefCell<Decoder> = RefCell::default();
}

/// The bytes of `part` of what a recipe describes.
pub(super) async fn open(
    source: &Arc<Source>,
    id: Uuid,
    part: Range<u64>,
) -> storage_backends::Result<ByteStream> {
    let recipe = source.recipes.get(id).await?;
    let reach = Reach::of(source);
    let runs = runs(recipe.entries(), &part, reach);
    let source = Arc::clone(source);
    let pieces = stream::iter(runs).map(move |run| {
        let source = Arc::clone(&source);
        async move {
            match run {
                Run::Zeros(length) => Ok(stream::iter(zeros(length).map(Ok)).boxed()),
                Run::Chunks(read) => {
                    let chunks = detached(async move { read.perform(&source, Read::decode).await }).await?;
                    Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
                }
            }
        }
    });
    Ok(pieces.buffered(reach.ahead).try_flatten().boxed())
}

/// A chunk that is what its hash says.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) id: ChunkId,
    pub(super) place: Place,
    /// Its bytes as they are stored.
    pub(super) stored: Bytes,
}

/// Reads chunks as they are stored and compares them with their hashes. Gives those that are right, as it goes.
pub(super) fn check(
    source: &Arc<Source>,
    chunks: &[Entry],
) -> BoxStream<'static, storage_backends::Result<Vec<Checked>>> {
    let reach = Reach { fixed: false, ..Reach::of(source) };
    let runs = runs(chunks, &(0..u64::MAX), reach);
    let source = Arc::clone(source);
    let checked = stream::iter(runs).map(move |run| {
        let source = Arc::clone(&source);
        async move {
            let Run::Chunks(read) = run else { return Ok(Vec::new()) };
            detached(async move { read.perform(&source, Read::check).await }).await
        }
    });
    checked.buffered(reach.ahead).boxed()
}

/// What is read in one go.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    Zeros(u64),
    Chunks(Read),
}

/// Chunks of one pack that lie behind one another, and the zeros between them.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    pack: Uuid,
    range: Range<u64>,
    /// Bytes of the blob, not only those that are wanted.
    length: u64,
    pieces: Vec<Piece>,
}

/// A part of what is read.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// A chunk, and which part of it is wanted.
    Chunk { id: ChunkId, place: Place, part: Range<usize> },
    /// So many zeros.
    Zeros(u64),
}

impl Piece {
    fn is_wanted(&self) -> bool {
        match self {
            Self::Chunk { part, .. } => !part.is_empty(),
            Self::Zeros(length) => *length > 0,
        }
    }
}

/// The runs that make up `part` of these entries.
fn runs(entries: &[Entry], part: &Range<u64>, reach: Reach) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut begin = 0;
    for entry in entries {
        let (start, length) = (begin, entry.length());
        begin += length;
        let wanted = part.start.clamp(start, begin)..part.end.clamp(start, begin);
        if wanted.is_empty() && !reach.fixed {
            continue;
        }
        match entry {
            Entry::Zeros(_) => {
                let zeros = wanted.end - wanted.start;
                match runs.last_mut() {
                    Some(Run::Chunks(read)) if read.length + length <= reach.run => {
                        read.length += length;
                        read.pieces.push(Piece::Zeros(zeros));
                    }
                    _ => runs.push(Run::Zeros(zeros)),
                }
            }
            Entry::Chunk { id, place } => {
                // Within a chunk, whose length is a u32.
                let inside = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
                let part = inside(wanted.start)..inside(wanted.end);
                let piece = Piece::Chunk { id: *id, place: *place, part };
                match runs.last_mut() {
                    Some(Run::Chunks(read)) if read.takes(place, reach.run) => read.push(place, piece),
                    _ => runs.push(Run::Chunks(Read::of(place, piece))),
                }
            }
        }
    }
    runs.retain(|run| match run {
        Run::Zeros(length) => *length > 0,
        Run::Chunks(read) => read.pieces.iter().any(Piece::is_wanted),
    });
    runs
}

/// Where the bytes of a chunk are in its pack.
fn extent(place: &Place) -> Range<u64> {
    place.offset.into()..place.end()
}

impl Read {
    fn of(place: &Place, piece: Piece) -> Self {
        Self { pack: place.pack, range: extent(place), length: place.length.into(), pieces: vec![piece] }
    }

    /// Whether a chunk is near enough behind the others, and no more than `run` bytes with them.
    fn takes(&self, place: &Place, run: u64) -> bool {
        let near = self.range.end..=self.range.end + GAP;
        place.pack == self.pack
            && near.contains(&place.offset.into())
            && self.length + u64::from(place.length) <= run
    }

    fn push(&mut self, place: &Place, piece: Piece) {
        self.range.end = extent(place).end;
        self.length += u64::from(place.length);
        self.pieces.push(piece);
    }

    /// Fetches what is stored, and gives what `decode` makes of it.
    async fn perform<T: Send + 'static>(
        self,
        source: &Source,
        decode: fn(&Self, &Bytes, &mut Decoder) -> Result<Vec<T>, DamagedChunk>,
    ) -> storage_backends::Result<Vec<T>> {
        let (pack, range) = (self.pack, self.range.clone());
        let stored = source.packs.read(pack, range.clone()).await?;
        let decoded =
            blocking(move || DECODER.with_borrow_mut(|decoder| decode(&self, &stored, decoder))).await;
        decoded.map_err(|error| {
            let key = layout::data(pack);
            tracing::error!(pack = %key, %error, "what is stored is damaged");
            source.packs.distrust(pack, &range);
            storage_backends::Error::DataLost { key, reason: error.to_string() }
        })
    }

    /// The bytes of the blob that are wanted.
    fn decode(&self, stored: &Bytes, decoder: &mut Decoder) -> Result<Vec<Bytes>, DamagedChunk> {
        let mut bytes = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces.iter().filter(|piece| piece.is_wanted()) {
            match piece {
                Piece::Zeros(length) => bytes.extend(zeros(*length)),
                Piece::Chunk { id, place, part } => {
                    let chunk = self.slice(stored, id, place)?;
                    bytes.push(decode(decoder, id, place, &chunk)?.slice(part.clone()));
                }
            }
        }
        Ok(bytes)
    }

    /// The chunks as they are stored.
    fn check(&self, stored: &Bytes, decoder: &mut Decoder) -> Result<Vec<Checked>, DamagedChunk> {
        let mut chunks = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            if let Piece::Chunk { id, place, .. } = piece {
                let chunk = self.slice(stored, id, place)?;
                decode(decoder, id, place, &chunk)?;
                chunks.push(Checked { id: *id, place: *place, stored: chunk });
            }
        }
        Ok(chunks)
    }

    /// A chunk as it is stored.
    fn slice(&self, stored: &Bytes, id: &ChunkId, place: &Place) -> Result<Bytes, DamagedChunk> {
        let extent = extent(place);
        let at = |position: u64| usize::try_from(position - self.range.start).unwrap_or(usize::MAX);
        let (from, to) = (at(extent.start), at(extent.end));
        if to > stored.len() {
            return Err(DamagedChunk(*id));
        }
        Ok(stored.slice(from..to))
    }
}

fn decode(decoder: &mut Decoder, id: &ChunkId, place: &Place, stored: &Bytes) -> Result<Bytes, DamagedChunk> {
    decoder.decode(id, stored, usize::try_from(place.length).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pack: u128, offset: u32, stored: u32, length: u32) -> Entry {
        let place = Place { pack: Uuid::from_u128(pack), offset, stored, length };
        Entry::Chunk { id: ChunkId::of(&offset.to_le_bytes()), place }
    }

    fn ranges(entries: &[Entry], part: Range<u64>) -> Vec<Option<Range<u64>>> {
        let range = |run| match run {
            Run::Chunks(read) => Some(read.range),
            Run::Zeros(_) => None,
        };
        runs(entries, &part, Reach::NEAR).into_iter().map(range).collect()
    }

    #[test]
    fn neighbours_in_a_pack_are_read_in_one_go() {
        let entries =
            [entry(1, 0, 50, 100), entry(1, 50, 100, 100), entry(1, 160, 40, 100), Entry::Zeros(100)];
        assert_eq!(ranges(&entries, 0..400), [Some(0..200)]);
        assert_eq!(ranges(&entries, 150..151), [Some(50..150)]);
        assert_eq!(ranges(&entries, 300..400), [None]);
    }

    #[test]
    fn what_is_elsewhere_or_before_or_far_behind_is_read_for_itself() {
        let far = 150 + u32::try_from(GAP).unwrap() + 1;
        for next in [entry(2, 50, 100, 100), entry(1, 0, 10, 100), entry(1, far, 10, 100)] {
            let entries = [entry(1, 50, 100, 100), next];
            assert_eq!(ranges(&entries, 0..200).len(), 2);
        }
    }

    #[test]
    fn short_runs_of_zeros_are_within_what_is_read_and_long_ones_are_not() {
        let entries = [
            entry(1, 0, 50, 100),
            Entry::Zeros(1000),
            entry(1, 50, 50, 100),
            Entry::Zeros(Reach::NEAR.run),
            entry(1, 100, 9, 10),
        ];
        assert_eq!(ranges(&entries, 0..u64::MAX), [Some(0..100), None, Some(100..109)]);
        assert_eq!(ranges(&entries, 100..1100), [None]);
    }

    #[test]
    fn fixed_runs_are_the_same_for_every_part() {
        let entries: Vec<Entry> = (0..256).map(|n| entry(1, n * 1000, 1000, 64 << 10)).collect();
        let all = runs(&entries, &(0..u64::MAX), Reach::FAR);
        for start in (0..256 * (64 << 10)).step_by(100_000) {
            let found = runs(&entries, &(start..start + 1), Reach::FAR);
            let [Run::Chunks(read)] = &found[..] else { panic!("{found:?}") };
            let is_same = |run: &Run| matches!(run, Run::Chunks(other) if other.range == read.range);
            assert!(all.iter().any(is_same), "{start}");
            assert_eq!(read.pieces.iter().filter(|piece| piece.is_wanted()).count(), 1);
        }
    }

    #[test]
    fn a_run_is_bounded() {
        let entries: Vec<Entry> = (0..256).map(|n| entry(1, n * 1000, 1000, 64 << 10)).collect();
        let length = 256 * (64 << 10);
        for reach in [Reach::NEAR, Reach::FAR] {
            assert_eq!(runs(&entries, &(0..length), reach).len() as u64, length / reach.run);
        }
    }
}
