//! Blobs out of packs of which little is needed: what they have there is copied, and all else of them stays where it is.
//!
//! A blob is not read for that, but its recipes, and of its chunks those that move: as they are stored, each against its hash.

use std::collections::HashMap;

use bytes::Bytes;
use futures::TryStreamExt as _;
use storage_backends::Version;

use crate::chunk::ChunkId;
use crate::oci::Digest;
use crate::registry::ingest::Ingest;
use crate::registry::layout;
use crate::registry::pace::Pace;
use crate::registry::recipe::Entry;
use crate::registry::record::{self, BlobRecord, Extent};
use crate::registry::session::Session;
use crate::registry::{Registry, Result, read_chunks};

/// Entries of a recipe that are copied in one go: of chunks of 96 KiB at most.
const BATCH: usize = 256;

impl Registry {
    /// Copies what a blob has in the packs that [were found to be sparse](Registry::in_sparse_packs); `false` if there is nothing.
    /// At most `rate` bytes are read in a second. `progress` is told how many bytes of the blob have been looked at.
    pub async fn make_dense(
        &self,
        digest: &Digest,
        rate: Option<u64>,
        progress: impl Fn(u64) + Send,
    ) -> Result<bool> {
        let store = self.store.as_ref();
        let found = record::find::<BlobRecord>(store, &layout::blob(digest)).await?;
        let Some((old, version)) = found.filter(|(old, _)| self.is_published(old)) else { return Ok(false) };
        self.store.room().await?;
        let mut session = Session::transient(&super::nowhere(), digest.algorithm());
        let mut ingest =
            Ingest::resume(&self.store, self.rules, &self.index, &self.claims, &mut session).await?;
        let copied = self.copy(&mut ingest, &mut session, &old, Pace::new(rate), progress).await;
        match copied {
            Ok(Some(extents)) => {
                let new = BlobRecord { size: old.size, extents };
                self.replace(digest, version, new, ingest, session).await
            }
            Ok(None) => {
                ingest.abandon().await;
                Ok(false)
            }
            Err(error) => {
                ingest.abandon().await;
                // What somebody has deleted or rewritten meanwhile may be gone.
                if self.is_still(digest, &version).await? { Err(error) } else { Ok(false) }
            }
        }
    }

    async fn is_still(&self, digest: &Digest, version: &Version) -> Result<bool> {
        let found = record::find::<BlobRecord>(self.store.as_ref(), &layout::blob(digest)).await?;
        Ok(found.is_some_and(|(_, now)| now == *version))
    }

    /// The extents of a blob with what was copied; `None` if nothing had to be.
    async fn copy(
        &self,
        ingest: &mut Ingest,
        session: &mut Session,
        old: &BlobRecord,
        mut pace: Pace,
        progress: impl Fn(u64) + Send,
    ) -> Result<Option<Vec<Extent>>> {
        let (mut passed, mut copies) = (0, false);
        for extent in &old.extents {
            let Extent::Chunks { recipe, .. } = extent else {
                ingest.keep(extent.clone());
                passed += extent.length();
                continue;
            };
            let (listed, size) = self.source.recipes.paged(*recipe).await?;
            let entries = self.source.recipes.read(*recipe, &listed.pages).await?;
            pace.read(size).await;
            let goes = |entry: &Entry| matches!(entry, Entry::Chunk { place, .. } if self.source.packs.is_leaving(place.pack));
            let pages_go = listed.pages.iter().any(|page| self.source.packs.is_leaving(page.place.pack));
            if !pages_go && !entries.entries().iter().any(goes) {
                ingest.keep(extent.clone());
                passed += extent.length();
                progress(passed);
                continue;
            }
            copies = true;
            for batch in entries.entries().chunks(BATCH) {
                let going: Vec<Entry> = batch.iter().copied().filter(goes).collect();
                let read = read_chunks::check(&self.source, &going).try_concat().await?;
                pace.read(read.iter().map(|chunk| chunk.stored.len() as u64).sum()).await;
                let moved: HashMap<ChunkId, Bytes> =
                    read.into_iter().map(|chunk| (chunk.id, chunk.stored)).collect();
                let stored = |entry: &Entry| match entry {
                    Entry::Chunk { id, .. } => moved.get(id).cloned(),
                    Entry::Zeros(_) => None,
                };
                let batch: Vec<_> = batch.iter().map(|entry| (*entry, stored(entry))).collect();
                passed += batch.iter().map(|(entry, _)| entry.length()).sum::<u64>();
                ingest.copy(batch, session).await?;
                progress(passed);
            }
            ingest.flush().await?;
        }
        if !copies {
            return Ok(None);
        }
        let (_, extents) = ingest.finish().await?;
        Ok(Some(extents))
    }
}
