//! Reading what is stored in chunks.
//!
//! Neighbours in a pack are read in one go and decoded off the async threads, a few such reads ahead of the client, so
//! both a disk's round trips and its processors are used. Each chunk is checked against its hash: one that is damaged
//! breaks the stream and is never handed on.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::{ByteStream, Store};
use uuid::Uuid;

use super::blocking::blocking;
use super::layout;
use super::read::zeros;
use super::recipe::{Entry, Place};
use super::recipes::Recipes;
use crate::chunk::{ChunkId, DamagedChunk, Decoder};

/// Bytes of a blob that are read in one go, at most, unless one chunk has more.
const RUN: u64 = 1 << 20;

/// Bytes in a pack between two chunks that are read and thrown away rather than read round.
const GAP: u64 = 32 << 10;

/// Reads ahead of the client: one is sent, and behind it there are enough to decode on some processors while others are on
/// their way.
const AHEAD: usize = 6;

/// The bytes of `part` of what a recipe describes.
pub(super) async fn open(
    recipes: &Recipes,
    id: Uuid,
    part: Range<u64>,
) -> storage_backends::Result<ByteStream> {
    let recipe = recipes.get(id).await?;
    let runs = runs(recipe.entries(), &part);
    let store = Arc::clone(recipes.store());
    let pieces = stream::iter(runs).map(move |run| {
        let store = Arc::clone(&store);
        async move {
            match run {
                Run::Zeros(length) => Ok(stream::iter(zeros(length).map(Ok)).boxed()),
                Run::Chunks(read) => {
                    let chunks = read.perform(store.as_ref()).await?;
                    Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
                }
            }
        }
    });
    Ok(pieces.buffered(AHEAD).try_flatten().boxed())
}

/// What is read in one go.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    Zeros(u64),
    Chunks(Read),
}

/// Chunks of one pack that lie behind one another.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    pack: Uuid,
    range: Range<u64>,
    chunks: Vec<Wanted>,
}

/// A chunk, and which part of it.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    id: ChunkId,
    place: Place,
    part: Range<usize>,
}

/// The runs that make up `part` of these entries.
fn runs(entries: &[Entry], part: &Range<u64>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut begin = 0;
    for entry in entries {
        let end = begin + entry.length();
        let wanted = part.start.max(begin)..part.end.min(end);
        if wanted.start < wanted.end {
            match entry {
                Entry::Zeros(_) => runs.push(Run::Zeros(wanted.end - wanted.start)),
                Entry::Chunk { id, place } => {
                    // Within a chunk, whose length is a u32.
                    let inside = |at: u64| usize::try_from(at - begin).unwrap_or(usize::MAX);
                    let part = inside(wanted.start)..inside(wanted.end);
                    let wanted = Wanted { id: *id, place: *place, part };
                    match runs.last_mut() {
                        Some(Run::Chunks(read)) if read.takes(place) => read.push(wanted),
                        _ => runs.push(Run::Chunks(Read::of(wanted))),
                    }
                }
            }
        }
        begin = end;
    }
    runs
}

/// Where the bytes of a chunk are in its pack.
fn extent(place: &Place) -> Range<u64> {
    let offset = u64::from(place.offset);
    offset..offset + u64::from(place.stored)
}

impl Read {
    fn of(wanted: Wanted) -> Self {
        Self { pack: wanted.place.pack, range: extent(&wanted.place), chunks: vec![wanted] }
    }

    /// Whether a chunk is near enough behind the others.
    fn takes(&self, place: &Place) -> bool {
        let length: u64 = self.chunks.iter().map(|wanted| u64::from(wanted.place.length)).sum();
        let near = self.range.end..=self.range.end + GAP;
        place.pack == self.pack
            && near.contains(&place.offset.into())
            && length + u64::from(place.length) <= RUN
    }

    fn push(&mut self, wanted: Wanted) {
        self.range.end = extent(&wanted.place).end;
        self.chunks.push(wanted);
    }

    async fn perform(self, store: &dyn Store) -> storage_backends::Result<Vec<Bytes>> {
        let key = layout::data(self.pack);
        let mut pieces = store.read(&key, self.range.clone()).await?;
        let length = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let mut stored = BytesMut::with_capacity(length);
        while let Some(piece) = pieces.try_next().await? {
            stored.extend_from_slice(&piece);
        }
        let stored = stored.freeze();
        let decoded = blocking(move || self.decode(&stored)).await;
        decoded.map_err(|error| {
            tracing::error!(pack = %key, %error, "what is stored is damaged");
            storage_backends::Error::DataLost { key, reason: error.to_string() }
        })
    }

    fn decode(&self, stored: &Bytes) -> Result<Vec<Bytes>, DamagedChunk> {
        let mut decoder = Decoder::default();
        let decode = |wanted: &Wanted| {
            let extent = extent(&wanted.place);
            let at = |position: u64| usize::try_from(position - self.range.start).unwrap_or(usize::MAX);
            let (from, to) = (at(extent.start), at(extent.end));
            if to > stored.len() {
                return Err(DamagedChunk(wanted.id));
            }
            let length = usize::try_from(wanted.place.length).unwrap_or(usize::MAX);
            let chunk = decoder.decode(&wanted.id, &stored.slice(from..to), length)?;
            Ok(chunk.slice(wanted.part.clone()))
        };
        self.chunks.iter().map(decode).collect()
    }
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
        runs(entries, &part).into_iter().map(range).collect()
    }

    #[test]
    fn neighbours_in_a_pack_are_read_in_one_go() {
        let entries =
            [entry(1, 0, 50, 100), entry(1, 50, 100, 100), entry(1, 160, 40, 100), Entry::Zeros(100)];
        assert_eq!(ranges(&entries, 0..400), [Some(0..200), None]);
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
    fn a_run_is_bounded() {
        let entries: Vec<Entry> = (0..64).map(|n| entry(1, n * 1000, 1000, 64 << 10)).collect();
        let length = 64 * (64 << 10);
        assert_eq!(ranges(&entries, 0..length).len() as u64, length / RUN);
    }
}
