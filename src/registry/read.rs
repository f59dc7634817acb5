//! Following the extents of a blob.

use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use storage_backends::ByteStream;

use super::blocking::blocking;
use super::record::{BlobRecord, Extent};
use super::source::Source;
use super::{Result, layout, read_chunks};
use crate::chunk::zeros;
use crate::oci::{Algorithm, Digest, Hasher};

/// Small extents that are opened ahead of the reader, so that a blob of many is not one round trip after the
/// other. Large ones are opened when it is their turn: the store would wait with their bytes.
const AHEAD: usize = 4;

/// Extents of at least this size on average count as large.
const LARGE: u64 = 4 << 20;

/// The bytes of `range`, which lies within the blob.
pub(super) fn stream(source: &Arc<Source>, record: &BlobRecord, range: Range<u64>) -> ByteStream {
    let source = Arc::clone(source);
    let length = range.end - range.start;
    let wanted = overlapping(record, range);
    let ahead = if length / (wanted.len() as u64).max(1) < LARGE { AHEAD } else { 1 };
    stream::iter(wanted)
        .map(move |(extent, part)| {
            let source = Arc::clone(&source);
            async move { open(&source, extent, part).await }
        })
        .buffered(ahead)
        .try_flatten()
        .boxed()
}

/// The extents that `range` touches, each with the part of it that is wanted.
pub(super) fn overlapping(record: &BlobRecord, range: Range<u64>) -> Vec<(Extent, Range<u64>)> {
    let mut begin = 0;
    let mut found = Vec::new();
    for extent in &record.extents {
        let end = begin + extent.length();
        let part = range.start.max(begin)..range.end.min(end);
        if part.start < part.end {
            found.push((extent.clone(), part.start - begin..part.end - begin));
        }
        begin = end;
    }
    found
}

async fn open(
    source: &Arc<Source>,
    extent: Extent,
    part: Range<u64>,
) -> storage_backends::Result<ByteStream> {
    match extent {
        Extent::Chunks { recipe, .. } => read_chunks::open(source, recipe, part).await,
        Extent::Data { object, offset, .. } => {
            let range = offset + part.start..offset + part.end;
            source.store.read(&layout::data(object), range).await
        }
        Extent::Zero { .. } => Ok(stream::iter(zeros(part.end - part.start).map(Ok)).boxed()),
        Extent::Inline(bytes) => {
            // An inline extent came out of one small record, so its length is a usize.
            let part = usize::try_from(part.start).unwrap_or(usize::MAX)
                ..usize::try_from(part.end).unwrap_or(usize::MAX);
            Ok(stream::iter([Ok(bytes.slice(part))]).boxed())
        }
    }
}

/// The digest of stored bytes, by reading them.
pub(super) async fn digest(
    source: &Arc<Source>,
    record: &BlobRecord,
    algorithm: Algorithm,
) -> Result<Digest> {
    let mut pieces = stream(source, record, 0..record.size);
    let mut hasher = Hasher::new(algorithm);
    while let Some(piece) = pieces.try_next().await? {
        hasher = blocking(move || {
            hasher.update(&piece);
            hasher
        })
        .await;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use storage_backends::{Memory, MemoryOptions, Store};
    use uuid::Uuid;

    /// A blob of every kind of extent, and its bytes.
    async fn blob() -> (Arc<Source>, BlobRecord, Vec<u8>) {
        let store: Arc<dyn Store> = Arc::new(Memory::empty(MemoryOptions::default()));
        let object = Uuid::now_v7();
        let mut writer = store.create_data(&layout::data(object)).await.unwrap();
        let data: Vec<u8> = (0..200_000u32).map(|i| u8::try_from(i % 253).unwrap()).collect();
        writer.write(vec![data.clone().into()]).await.unwrap();
        writer.seal().await.unwrap();
        let extents = vec![
            Extent::Inline(Bytes::from_static(b"inline")),
            Extent::Zero { length: 100_000 },
            Extent::Data { object, offset: 1000, length: 50_000 },
            Extent::Data { object, offset: 0, length: 10 },
            Extent::Zero { length: 1 },
        ];
        let bytes =
            [b"inline".as_slice(), &vec![0; 100_000], &data[1000..51_000], &data[..10], &[0]].concat();
        (Arc::new(Source::new(&store, 0)), BlobRecord { size: bytes.len() as u64, extents }, bytes)
    }

    #[tokio::test]
    async fn any_range_over_any_extents_is_the_same_bytes() {
        let (source, record, bytes) = blob().await;
        let cuts = [0, 1, 5, 6, 7, 100_005, 100_006, 100_007, 150_006, 150_010, 150_016, 150_017];
        for start in cuts {
            for end in cuts.into_iter().filter(|end| *end >= start) {
                let found: Vec<Bytes> = stream(&source, &record, start..end).try_collect().await.unwrap();
                let (from, to) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
                assert!(found.concat() == bytes[from..to], "{start}..{end}");
            }
        }
    }

    #[tokio::test]
    async fn reading_again_gives_the_digest_of_the_bytes() {
        let (source, record, bytes) = blob().await;
        let found = digest(&source, &record, Algorithm::Sha512).await.unwrap();
        assert_eq!(found, Digest::of(Algorithm::Sha512, &bytes));
    }

    proptest! {
        #[test]
        fn the_overlap_covers_the_range_exactly(
            lengths in proptest::collection::vec(0u64..50, 0..8), a in 0u64..400, b in 0u64..400,
        ) {
            let size: u64 = lengths.iter().sum();
            let record = BlobRecord {
                size,
                extents: lengths.into_iter().map(|length| Extent::Zero { length }).collect(),
            };
            let (start, end) = (a.min(b).min(size), a.max(b).min(size));
            let covered: u64 = overlapping(&record, start..end).iter().map(|(_, p)| p.end - p.start).sum();
            prop_assert_eq!(covered, end - start);
        }
    }
}
