//! [`ChunkIndex`]: which chunks are stored already, and where.
//!
//! A cache, in memory, that is bounded and may be wrong in one way only: it may not know a chunk, which is stored once more
//! then. Reading never asks it. It learns from the recipes of blobs that are published: of this process's own at once, of
//! other replicas' and of those before the last start by the entries below `index/`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::Condition;
use uuid::{NoContext, Timestamp, Uuid};

use super::places::{self, Places};
use super::recipe::{Entry, Page, Place, Recipe};
use super::record::IndexEntry;
use super::source::Source;
use super::tally::Tally;
use super::{Result, layout, record};
use crate::chunk::ChunkId;

/// How often it is looked for what other replicas have stored.
const REFRESH: Duration = Duration::from_secs(10);

/// Recipes of a blob that are read at once, a quarter of a MiB each: in a bucket each is a round trip.
const AHEAD: usize = 8;

/// The same on a disk, which has no round trips.
const AHEAD_ON_DISK: usize = 2;

/// By how much the clocks of replicas may differ. When they do by more, chunks are stored again.
const CLOCKS: Duration = Duration::from_hours(1);

/// Which chunks are stored, and where.
#[derive(Debug)]
pub(super) struct ChunkIndex {
    /// What knowing chunks has spared.
    pub(super) tally: Arc<Tally>,
    source: Arc<Source>,
    tables: RwLock<Tables>,
    refreshing: Mutex<Refreshing>,
}

/// What was used lately, and what was used before that. When the first is full it becomes the second.
#[derive(Debug)]
struct Tables {
    young: Places,
    old: Places,
    /// Entries of each, at most.
    limit: usize,
    /// Of what may be known.
    generation: u64,
}

#[derive(Debug, Default)]
struct Refreshing {
    /// Entries below `index/` that have been read, or written by this process.
    seen: HashSet<Uuid>,
    last: Option<Instant>,
    is_running: bool,
}

impl ChunkIndex {
    /// An index that takes at most so many bytes of memory.
    pub(super) fn new(source: Arc<Source>, memory: u64) -> Self {
        let limit = usize::try_from(memory / 2 / places::ENTRY).unwrap_or(usize::MAX).max(1);
        let tables = RwLock::new(Tables::new(limit));
        Self { tally: Arc::default(), source, tables, refreshing: Mutex::default() }
    }

    /// Where a chunk is, if it is known to be stored.
    pub(super) fn find(&self, id: &ChunkId) -> Option<Place> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let place = tables.young.find(id).or_else(|| tables.old.find(id))?;
        self.source.packs.is_trusted(place.pack).then_some(place)
    }

    /// Learns the chunks of a recipe that belongs to a published blob, or of some of its pages, and those pages.
    fn learn(&self, recipe: &Recipe, pages: &[Page]) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for entry in recipe.entries() {
            if let Entry::Chunk { id, place } = entry {
                tables.insert(id, place);
            }
        }
        for Page { id, place } in pages {
            tables.insert(id, place);
        }
    }

    /// The pages whose chunks were not learnt lately.
    fn unlearnt(&self, pages: Vec<Page>) -> Vec<Page> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        pages.into_iter().filter(|page| !tables.young.has(&page.id)).collect()
    }

    /// Tells the other replicas of a published blob's recipes, and learns them. What goes wrong costs nothing but space.
    pub(super) async fn publish(&self, ids: Vec<Uuid>) {
        if ids.is_empty() {
            return;
        }
        let id = Uuid::now_v7();
        self.refreshing().seen.insert(id);
        let entry = IndexEntry { recipes: ids };
        let put =
            self.source.store.put(&layout::index_entry(id), record::encode(&entry), Condition::Absent).await;
        if let Err(error) = put {
            tracing::warn!(%error, "other replicas will not know the chunks of a blob");
        }
        self.learn_all(entry.recipes).await;
    }

    /// Learns what other replicas have published, if it was not done lately.
    pub(super) async fn refresh(&self) {
        {
            let mut refreshing = self.refreshing();
            let is_due = refreshing.last.is_none_or(|last| last.elapsed() >= REFRESH);
            if refreshing.is_running || !is_due {
                return;
            }
            refreshing.is_running = true;
        }
        if let Err(error) = self.read_entries().await {
            tracing::warn!(%error, "cannot read which chunks are stored; some will be stored again");
        }
        let mut refreshing = self.refreshing();
        refreshing.is_running = false;
        refreshing.last = Some(Instant::now());
    }

    async fn read_entries(&self) -> Result<()> {
        let store = self.source.store.as_ref();
        // All of them once; then those that are new, whose ids are of these days.
        let since = self.refreshing().last.and(recently());
        let mut entries = store.list(&layout::index(), since.map(layout::index_entry).as_ref());
        while let Some(entry) = entries.try_next().await? {
            let Some(id) = layout::id(&entry.key) else { continue };
            if !self.refreshing().seen.insert(id) {
                continue;
            }
            match record::find::<IndexEntry>(store, &entry.key).await {
                Ok(Some((found, _))) => self.learn_all(found.recipes).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot read an entry of the index"),
            }
        }
        Ok(())
    }

    async fn learn_all(&self, ids: Vec<Uuid>) {
        let ahead = if self.source.store.capabilities().shared { AHEAD } else { AHEAD_ON_DISK };
        // Most pages of a version are those of the one before.
        let mut read =
            stream::iter(ids).map(|id| async move { (id, self.unlearnt_of(id).await) }).buffered(ahead);
        while let Some((id, recipe)) = read.next().await {
            match recipe {
                Ok((recipe, pages)) => self.learn(&recipe, &pages),
                Err(error) => tracing::warn!(%error, recipe = %id, "cannot read a recipe for the index"),
            }
        }
    }

    /// What was not learnt lately of a recipe.
    async fn unlearnt_of(&self, id: Uuid) -> storage_backends::Result<(Recipe, Vec<Page>)> {
        let (recipe, _) = self.source.recipes.paged(id).await?;
        let pages = self.unlearnt(recipe.pages);
        Ok((self.source.recipes.read(id, &pages).await?, pages))
    }

    /// Forgets everything of an earlier generation, to learn it again: some of it may be gone since.
    pub(super) fn follow(&self, generation: u64) {
        if self.tables.read().unwrap_or_else(PoisonError::into_inner).generation == generation {
            return;
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if tables.generation == generation {
            return;
        }
        *tables = Tables { generation, ..Tables::new(tables.limit) };
        let mut refreshing = self.refreshing();
        refreshing.seen.clear();
        refreshing.last = None;
    }

    fn refreshing(&self) -> std::sync::MutexGuard<'_, Refreshing> {
        self.refreshing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn new(limit: usize) -> Self {
        Self { young: Places::default(), old: Places::default(), limit, generation: 0 }
    }

    fn insert(&mut self, id: &ChunkId, place: &Place) {
        if self.young.len() >= self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, place);
    }
}

/// An id as one that was made a while ago.
fn recently() -> Option<Uuid> {
    let then = SystemTime::now().checked_sub(CLOCKS)?.duration_since(UNIX_EPOCH).ok()?;
    Some(Uuid::new_v7(Timestamp::from_unix(NoContext, then.as_secs(), 0)))
}

#[cfg(test)]
mod tests {
    use storage_backends::{Memory, MemoryOptions, Store};

    use super::*;

    fn index(memory: u64) -> ChunkIndex {
        let store: Arc<dyn Store> = Arc::new(Memory::empty(MemoryOptions::default()));
        ChunkIndex::new(Arc::new(Source::new(&store, 0)), memory)
    }

    fn recipe(chunks: std::ops::Range<u32>) -> Recipe {
        let mut recipe = Recipe::default();
        for number in chunks {
            let place = Place { pack: Uuid::from_u128(1), offset: number, stored: 1, length: 2 };
            recipe.push(Entry::Chunk { id: ChunkId::of(&number.to_le_bytes()), place });
        }
        recipe
    }

    #[test]
    fn what_was_learnt_is_found_where_it_is() {
        let index = index(1 << 20);
        index.learn(&recipe(0..100), &[]);
        for number in 0_u32..100 {
            let place = index.find(&ChunkId::of(&number.to_le_bytes())).unwrap();
            assert_eq!((place.offset, place.pack), (number, Uuid::from_u128(1)));
        }
        assert_eq!(index.find(&ChunkId::of(b"other")), None);
    }

    #[test]
    fn when_it_is_full_what_was_not_used_lately_goes() {
        let index = index(100 * 2 * places::ENTRY);
        index.learn(&recipe(0..1), &[]);
        for start in (1..1000).step_by(50) {
            index.learn(&recipe(start..start + 50), &[]);
            // Somebody has pushed a blob with this chunk again.
            index.learn(&recipe(0..1), &[]);
        }
        let knows = |number: u32| index.find(&ChunkId::of(&number.to_le_bytes())).is_some();
        assert!(knows(0) && knows(1000) && !knows(1));
        let tables = index.tables.read().unwrap();
        assert!(tables.young.len() + tables.old.len() <= 200);
    }
}
