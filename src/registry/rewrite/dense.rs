//! Blobs out of packs of which little is needed: what they have there is copied, and all else of them stays where it is.
//!
//! A blob is not read for that, but its recipes, and of its chunks those that move: as they are stored, each against its hash.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::Version;

use crate::chunk::Decoder;
use crate::oci::Digest;
use crate::registry::blocking::blocking;
use crate::registry::ingest::Ingest;
use crate::registry::layout;
use crate::registry::pace::Pace;
use crate::registry::recipe::Entry;
use crate::registry::record::{self, BlobRecord, Extent};
use crate::registry::session::Session;
use crate::registry::{Registry, Result};

/// Entries of a recipe that are copied in one go: of chunks of 96 KiB at most.
const BATCH: usize = 256;

/// Chunks that are read at once: in a bucket each is a round trip.
const AHEAD: usize = 8;

impl Registry {
    /// Copies what a blob has in packs that [are to go](super::sparse); `false` if there is nothing. At most so many bytes are
    /// read in a second. `progress` is told how many bytes of the blob have been looked at.
    pub(super) async fn make_dense(
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
                let bytes = self.stored_bytes(batch).await?;
                pace.read(bytes.iter().flatten().map(|bytes| bytes.len() as u64).sum()).await;
                let batch: Vec<_> = batch.iter().copied().zip(bytes).collect();
                passed += batch.iter().map(|(entry, _)| entry.length()).sum::<u64>();
                ingest.copy(batch, session).await?;
                progress(passed);
            }
            ingest.end_copy().await?;
        }
        if !copies {
            return Ok(None);
        }
        let (_, extents) = ingest.finish().await?;
        Ok(Some(extents))
    }

    /// The bytes of those chunks that have to move, as they are stored.
    async fn stored_bytes(&self, entries: &[Entry]) -> Result<Vec<Option<Bytes>>> {
        let packs = &self.source.packs;
        let read = |entry: Entry| async move {
            let Entry::Chunk { id, place } = entry else { return Ok(None) };
            if !packs.is_leaving(place.pack) {
                return Ok(None);
            }
            let range = u64::from(place.offset)..place.end();
            let stored = packs.read(place.pack, range.clone()).await?;
            let checked = stored.clone();
            let decoded = blocking(move || Decoder::default().decode(&id, &checked, place.length as usize));
            if let Err(error) = decoded.await {
                packs.distrust(place.pack, &range);
                let key = layout::data(place.pack);
                return Err(storage_backends::Error::DataLost { key, reason: error.to_string() });
            }
            Ok(Some(stored))
        };
        let read = stream::iter(entries.iter().copied()).map(read).buffered(AHEAD);
        Ok(read.try_collect().await?)
    }
}
