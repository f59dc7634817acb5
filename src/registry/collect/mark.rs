//! Which data is needed: by uploads, and by the records of blobs.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::Key;
use uuid::Uuid;

use crate::chunk::ChunkId;
use crate::oci::Digest;
use crate::registry::ingest::object_of;
use crate::registry::quarantine::Quarantined;
use crate::registry::recipe::Entry;
use crate::registry::record::{BlobRecord, Ending, Extent, Segment, SessionRecord};
use crate::registry::{Error, LOOKUPS, Registry, Result, layout, record};

/// What is needed.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// Data objects, packs among them.
    pub(super) data: HashSet<Uuid>,
    pub(super) recipes: HashSet<Uuid>,
    /// Records and recipes that cannot be read, so that what they need is not known.
    pub(super) unreadable: u64,
}

impl Needed {
    pub(super) fn has(&self, object: &Uuid) -> bool {
        self.data.contains(object) || self.recipes.contains(object)
    }

    /// What was found, or nothing where it is damaged, which is counted.
    fn unless_damaged<T>(&mut self, found: Result<Option<T>>) -> Result<Option<T>> {
        if matches!(found, Err(Error::Record { .. })) {
            self.unreadable += 1;
        }
        record::unless_damaged(found)
    }

    fn add(&mut self, extents: &[Extent]) {
        for extent in extents {
            match extent {
                Extent::Data { object, .. } => self.data.insert(*object),
                Extent::Chunks { recipe, .. } => self.recipes.insert(*recipe),
                Extent::Zero { .. } | Extent::Inline(_) => false,
            };
        }
    }
}

impl Registry {
    /// What is needed by everything but the blobs `gone`.
    ///
    /// Uploads are read before the records of blobs: one that is finished meanwhile has its data in one or the other.
    pub(super) async fn mark(&self, gone: &HashSet<Digest>) -> Result<Needed> {
        let mut needed = Needed::default();
        self.mark_uploads(&mut needed).await?;
        let of_blobs = self.mark_blobs(gone, &mut needed).await?;
        // Behind the blobs, of which one may be put aside meanwhile.
        self.mark_quarantined(&mut needed).await?;
        self.mark_packs(&of_blobs, &mut needed).await?;
        Ok(needed)
    }

    /// What was put aside refers to data as it did before.
    async fn mark_quarantined(&self, needed: &mut Needed) -> Result<()> {
        let mut entries = self.store.list(&layout::quarantine(), None);
        while let Some(entry) = entries.try_next().await? {
            let found = record::find::<Quarantined>(self.store.as_ref(), &entry.key).await;
            if let Some((aside, _)) = record::unless_damaged(found)?
                && let Some(blob) = aside.blob()
            {
                needed.add(&blob.extents);
            }
        }
        Ok(())
    }

    async fn mark_uploads(&self, needed: &mut Needed) -> Result<()> {
        let store = self.store.as_ref();
        let mut entries = store.list(&layout::sessions(), None);
        while let Some(entry) = entries.try_next().await? {
            let Some((id, true)) = layout::session_of(&entry.key) else { continue };
            let found = record::find::<SessionRecord>(store, &entry.key).await;
            let Some((session, _)) = needed.unless_damaged(found)? else { continue };
            if session.ending.as_ref().is_some_and(Ending::is_over) {
                continue;
            }
            needed.add(&session.extents);
            needed.data.extend(session.claims);
            needed.data.extend(session.writer.as_ref().and_then(object_of));
            for segment in session.segments {
                let key = layout::session_extents(id, segment);
                // It goes with the session, when that was finished.
                let found = record::find::<Segment>(store, &key).await;
                if let Some((segment, _)) = needed.unless_damaged(found)? {
                    needed.add(&segment.extents);
                }
            }
        }
        Ok(())
    }

    /// Gives the recipes of blobs, each with its record.
    async fn mark_blobs(&self, gone: &HashSet<Digest>, needed: &mut Needed) -> Result<HashMap<Uuid, Key>> {
        let mut keys = Vec::new();
        let mut entries = self.store.list(&layout::blobs(), None);
        while let Some(entry) = entries.try_next().await? {
            let is_gone = layout::blob_digest(&entry.key).is_some_and(|digest| gone.contains(&digest));
            if !record::is_tombstone(entry.size) && !is_gone {
                keys.push(entry.key);
            }
        }
        let read = |key: Key| async move {
            let found = record::find::<BlobRecord>(self.store.as_ref(), &key).await;
            (key, found)
        };
        let mut records = stream::iter(keys).map(read).buffer_unordered(LOOKUPS);
        let mut recipes = HashMap::new();
        while let Some((key, found)) = records.next().await {
            if let Some((record, _)) = needed.unless_damaged(found)? {
                needed.add(&record.extents);
                recipes.extend(record.recipes().into_iter().map(|recipe| (recipe, key.clone())));
            }
        }
        Ok(recipes)
    }

    /// The packs of recipes that are needed.
    async fn mark_packs(&self, of_blobs: &HashMap<Uuid, Key>, needed: &mut Needed) -> Result<()> {
        let recipes = &self.source.recipes;
        let ids: Vec<Uuid> = needed.recipes.iter().copied().collect();
        let read = |id: Uuid| async move { (id, recipes.paged(id).await) };
        let mut lists = stream::iter(ids).map(read).buffered(LOOKUPS);
        // Versions of a disk have most of their pages in common.
        let mut known: HashSet<ChunkId> = HashSet::new();
        while let Some((id, found)) = lists.next().await {
            let read = async {
                let (recipe, _) = found?;
                // The same page may lie at several places: each of them is needed, and one is enough to read.
                needed.data.extend(recipe.pages.iter().map(|page| page.place.pack));
                let pages: Vec<_> =
                    recipe.pages.into_iter().filter(|page| !known.contains(&page.id)).collect();
                Ok::<_, storage_backends::Error>((recipes.read(id, &pages).await?, pages))
            };
            match read.await {
                Ok((recipe, pages)) => {
                    known.extend(pages.iter().map(|page| page.id));
                    for entry in recipe.entries() {
                        if let Entry::Chunk { place, .. } = entry {
                            needed.data.insert(place.pack);
                        }
                    }
                }
                Err(error) if error.is_lost() => {
                    if let Some(blob) = of_blobs.get(&id)
                        && self.is_of(blob, id).await?
                    {
                        tracing::error!(%error, %blob, "no data is collected while it is not known what is needed");
                        needed.unreadable += 1;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether a blob has a recipe still: it, or the upload that was to be one, may have been deleted since.
    async fn is_of(&self, blob: &Key, recipe: Uuid) -> Result<bool> {
        let found = record::unless_damaged(record::find::<BlobRecord>(self.store.as_ref(), blob).await)?;
        Ok(found.is_some_and(|(record, _)| record.recipes().contains(&recipe)))
    }
}
