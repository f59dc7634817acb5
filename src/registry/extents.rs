//! What a blob is made of: where it has data, and where only zeros that take no space, for whoever copies a disk and would
//! rather not read holes; and its chunks, for whoever has some of them.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Peekable};
use futures::{StreamExt as _, TryStreamExt as _};
use storage_backends::Result;

use super::read::overlapping;
use super::recipe::Entry;
use super::record::{BlobRecord, Extent};
use super::source::Source;
use crate::chunk::Listed;

/// A stretch of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobExtent {
    /// Bytes in it.
    pub length: u64,
    /// Whether it is nothing but zeros, of which none are stored. What has data may be zero all the same: a run of less than
    /// 16 KiB is stored, and so is all of a blob that is not in chunks.
    pub hole: bool,
}

/// The extents of `range`, which lies within the blob: no two neighbours are alike.
pub(super) fn stream(
    source: &Arc<Source>,
    record: &BlobRecord,
    range: Range<u64>,
) -> BoxStream<'static, Result<BlobExtent>> {
    let source = Arc::clone(source);
    let found = stream::iter(overlapping(record, range)).then(move |(extent, part)| {
        let source = Arc::clone(&source);
        async move { Ok(stream::iter(within(&source, extent, part).await?.into_iter().map(Ok))) }
    });
    let found = found.try_flatten().boxed().peekable();
    stream::try_unfold(found, async |mut found| Ok(next(&mut found).await?.map(|extent| (extent, found))))
        .boxed()
}

/// The next extent, joined with those behind it that are like it.
async fn next(found: &mut Peekable<BoxStream<'static, Result<BlobExtent>>>) -> Result<Option<BlobExtent>> {
    let Some(mut extent) = found.try_next().await? else { return Ok(None) };
    let mut found = Pin::new(found);
    let alike = |next: &Result<BlobExtent>| next.as_ref().is_ok_and(|next| next.hole == extent.hole);
    while let Some(Ok(next)) = found.as_mut().next_if(alike).await {
        extent.length += next.length;
    }
    Ok(Some(extent))
}

/// The chunks of a blob, and what is in none.
pub(super) fn listing(source: &Arc<Source>, record: &BlobRecord) -> BoxStream<'static, Result<Listed>> {
    let source = Arc::clone(source);
    let found = stream::iter(record.extents.clone()).then(move |extent| {
        let source = Arc::clone(&source);
        async move { Ok(stream::iter(listed(&source, &extent).await?.into_iter().map(Ok))) }
    });
    found.try_flatten().boxed()
}

async fn listed(source: &Source, extent: &Extent) -> Result<Vec<Listed>> {
    Ok(match extent {
        Extent::Data { .. } | Extent::Inline(_) => vec![Listed::Other(extent.length())],
        Extent::Zero { length } => vec![Listed::Zeros(*length)],
        Extent::Chunks { recipe, .. } => {
            let listed = |entry: &Entry| match entry {
                Entry::Zeros(length) => Listed::Zeros(*length),
                Entry::Chunk { id, place } => Listed::Chunk { id: *id, length: place.length.into() },
            };
            source.recipes.get(*recipe).await?.entries().iter().map(listed).collect()
        }
    })
}

async fn within(source: &Source, extent: Extent, part: Range<u64>) -> Result<Vec<BlobExtent>> {
    let mut begin = 0;
    let mut found: Vec<BlobExtent> = Vec::new();
    for entry in listed(source, &extent).await? {
        let end = begin + entry.length();
        let length = part.end.min(end).saturating_sub(part.start.max(begin));
        begin = end;
        let hole = matches!(entry, Listed::Zeros(_));
        match found.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.hole == hole => last.length += length,
            _ => found.push(BlobExtent { length, hole }),
        }
    }
    Ok(found)
}
