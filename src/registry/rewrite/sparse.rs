//! Packs of which little is needed any more, and the blobs that have something there.
//!
//! A collection deletes packs that nothing needs, and never a part of one. What a version of a disk had in common with those that
//! came after it stays in its packs when it goes, and so does all else that is in them: after a year of weekly versions a few chunks
//! would hold on to each pack. What blobs have in such packs is copied ([`dense`](super::dense)), so that nothing needs them any more. At most half of a pack is
//! copied for all of it that goes.
//!
//! It is told by maps of blocks, and not by lists of chunks, how much of a pack is needed: they take 32 MiB of memory for a TiB of
//! packs, and a pack is at most taken for fuller than it is.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use crate::chunk::ChunkId;
use crate::oci::Digest;
use crate::registry::recipe::{Entry, Place};
use crate::registry::record::{self, BlobRecord, IndexEntry};
use crate::registry::{Error, LOOKUPS, Registry, Result, layout, milliseconds, now};

/// Bytes of which one bit says whether any of them is needed.
const BLOCK: u64 = 4 << 10;

/// How much of each pack is needed.
#[derive(Debug, Default)]
struct Usage {
    packs: HashMap<Uuid, Vec<u64>>,
    /// Pages whose chunks have been added: versions of a disk have most of them in common.
    pages: HashSet<ChunkId>,
}

impl Usage {
    fn add(&mut self, place: &Place) {
        let blocks = self.packs.entry(place.pack).or_default();
        let last = place.end().saturating_sub(1).max(place.offset.into()) / BLOCK;
        for block in u64::from(place.offset) / BLOCK..=last {
            let (word, bit) = (usize::try_from(block / 64).unwrap_or(usize::MAX), block % 64);
            if blocks.len() <= word {
                blocks.resize(word + 1, 0);
            }
            if let Some(word) = blocks.get_mut(word) {
                *word |= 1 << bit;
            }
        }
    }

    /// Bytes of a pack that are needed, or a little more.
    fn needed(&self, pack: &Uuid) -> u64 {
        let blocks = self.packs.get(pack).map_or(&[][..], Vec::as_slice);
        blocks.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() * BLOCK
    }
}

impl Registry {
    /// The blobs that have something in packs of which so little is needed that these are to go, with their sizes.
    ///
    /// From now on this process stores nothing by naming what is in these packs, and [`make_dense`](Registry::make_dense)
    /// copies what is. `progress` is told how many blobs have been looked at.
    pub async fn in_sparse_packs(&self, progress: impl Fn(u64) + Send) -> Result<Vec<(Digest, u64)>> {
        let blobs = self.chunked_blobs().await?;
        let mut usage = Usage::default();
        for ((digest, record), looked) in blobs.iter().zip(1..) {
            self.add_usage(&mut usage, digest, record).await?;
            progress(looked);
        }
        let packs = self.sparse(&usage).await?;
        drop(usage);
        let published = if packs.is_empty() { HashSet::new() } else { self.published_recipes().await? };
        self.source.packs.leave(packs.clone(), published);
        if packs.is_empty() {
            return Ok(Vec::new());
        }
        let (mut found, mut others) = (Vec::new(), HashSet::new());
        for (digest, record) in blobs {
            if self.is_published(&record) && self.has_some_in(&digest, &record, &packs, &mut others).await? {
                found.push((digest, record.size));
            }
        }
        Ok(found)
    }

    /// Whether whoever brought a blob knows that it is there. Who does not may find another record of it than theirs, and delete what
    /// they have written: nothing of that may be kept then.
    pub(super) fn is_published(&self, record: &BlobRecord) -> bool {
        record.recipes().into_iter().all(|recipe| self.source.packs.is_published(recipe))
    }

    /// The recipes of blobs whose uploaders have said that they are there.
    async fn published_recipes(&self) -> Result<HashSet<Uuid>> {
        let entries: Vec<_> = self.store.list(&layout::index(), None).try_collect().await?;
        let store = self.store.as_ref();
        let read = |entry: storage_backends::Entry| async move {
            record::unless_damaged(record::find::<IndexEntry>(store, &entry.key).await)
        };
        let mut read = stream::iter(entries).map(read).buffer_unordered(LOOKUPS);
        let mut recipes = HashSet::new();
        while let Some(found) = read.try_next().await? {
            recipes.extend(found.into_iter().flat_map(|(entry, _)| entry.recipes));
        }
        Ok(recipes)
    }

    async fn chunked_blobs(&self) -> Result<Vec<(Digest, BlobRecord)>> {
        let mut blobs = Vec::new();
        let mut keys = self.store.list(&layout::blobs(), None);
        while let Some(entry) = keys.try_next().await? {
            let Some(digest) = layout::blob_digest(&entry.key) else { continue };
            let found = record::find::<BlobRecord>(self.store.as_ref(), &entry.key).await;
            if let Some((record, _)) = record::unless_damaged(found)?
                && !record.recipes().is_empty()
            {
                blobs.push((digest, record));
            }
        }
        Ok(blobs)
    }

    /// Packs of which little is needed, but for those to which somebody may be about to refer.
    async fn sparse(&self, usage: &Usage) -> Result<HashSet<Uuid>> {
        let stored = self.stored().await?;
        let long_ago = now().saturating_sub(milliseconds(self.rules.grace));
        let is_sparse = |pack: &Uuid| {
            let size = stored.data.get(pack).copied().unwrap_or_default();
            usage.needed(pack).saturating_mul(100) < size.saturating_mul(self.rules.sparse_below.into())
                && record::time_of(*pack).is_some_and(|begun| begun < long_ago)
        };
        Ok(usage.packs.keys().filter(|pack| is_sparse(pack)).copied().collect())
    }

    async fn add_usage(&self, usage: &mut Usage, digest: &Digest, record: &BlobRecord) -> Result<()> {
        for recipe in record.recipes() {
            let read = async {
                let (listed, _) = self.source.recipes.paged(recipe).await?;
                for page in &listed.pages {
                    usage.add(&page.place);
                }
                let pages: Vec<_> =
                    listed.pages.into_iter().filter(|page| !usage.pages.contains(&page.id)).collect();
                let entries = self.source.recipes.read(recipe, &pages).await?;
                usage.pages.extend(pages.iter().map(|page| page.id));
                for entry in entries.entries() {
                    if let Entry::Chunk { place, .. } = entry {
                        usage.add(place);
                    }
                }
                Ok(())
            };
            unless_lost(digest, read.await)?;
        }
        Ok(())
    }

    /// Whether a blob has something in one of these packs. `others` are pages that have nothing there.
    async fn has_some_in(
        &self,
        digest: &Digest,
        record: &BlobRecord,
        packs: &HashSet<Uuid>,
        others: &mut HashSet<ChunkId>,
    ) -> Result<bool> {
        let mut found = false;
        for recipe in record.recipes() {
            let read = async {
                let (listed, _) = self.source.recipes.paged(recipe).await?;
                found |= listed.pages.iter().any(|page| packs.contains(&page.place.pack));
                let pages: Vec<_> =
                    listed.pages.into_iter().filter(|page| !others.contains(&page.id)).collect();
                if found || pages.is_empty() {
                    return Ok(());
                }
                let entries = self.source.recipes.read(recipe, &pages).await?;
                let is_there = |entry: &Entry| matches!(entry, Entry::Chunk { place, .. } if packs.contains(&place.pack));
                found = entries.entries().iter().any(is_there);
                if !found {
                    others.extend(pages.iter().map(|page| page.id));
                }
                Ok(())
            };
            unless_lost(digest, read.await)?;
            if found {
                break;
            }
        }
        Ok(found)
    }
}

/// Passes over what is damaged: that is for a verification to tell, and its packs stay as long as it does.
fn unless_lost(digest: &Digest, read: Result<(), storage_backends::Error>) -> Result<()> {
    match read {
        Err(error) if error.is_lost() => {
            tracing::warn!(%error, %digest, "it is not known in which packs a blob is");
            Ok(())
        }
        other => other.map_err(Error::Store),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pack: Uuid, offset: u32, stored: u32) -> Place {
        Place { pack, offset, stored, length: stored }
    }

    #[test]
    fn what_many_need_is_needed_once_and_never_less_than_it_is() {
        let (pack, mut usage) = (Uuid::from_u128(1), Usage::default());
        assert_eq!(usage.needed(&pack), 0);
        for _ in 0..3 {
            usage.add(&place(pack, 1 << 20, 10_000));
        }
        assert_eq!(usage.needed(&pack), 3 * BLOCK);
        usage.add(&place(pack, (1 << 20) + 10_000, 1));
        assert_eq!(usage.needed(&pack), 3 * BLOCK, "it lies in the block that is counted");
        usage.add(&place(pack, u32::MAX - 10, 10));
        assert_eq!(usage.needed(&pack), 4 * BLOCK);
        assert_eq!(usage.needed(&Uuid::from_u128(2)), 0);
    }
}
