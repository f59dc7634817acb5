//! [`Recipes`]: recipes out of the store, and those that were used lately out of memory.
//!
//! A machine that runs from a disk reads it in a thousand small pieces a second, and all of them by one recipe; a hundred
//! machines that start at once need the same one at once. It is fetched and decoded once for all of them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use quick_cache::Weighter;
use storage_backends::{Result, Store};
use uuid::Uuid;

use super::blocking::blocking;
use super::lately::Lately;
use super::packs::Packs;
use super::recipe::{Entry, InvalidRecipe, Page, PagedRecipe, Recipe};
use super::{layout, recipe_page};

/// Bytes of memory that decoded recipes may take: those of some 15 GiB of disks.
const MEMORY: u64 = 32 << 20;

/// Pages that are read in one go, at most: some 600 KiB.
const PAGES_OF_RUN: usize = 512;

/// Reads of pages at once: in a bucket each is a round trip.
const AHEAD: usize = 8;

/// The recipes of a store.
#[derive(Debug)]
pub(super) struct Recipes {
    store: Arc<dyn Store>,
    packs: Arc<Packs>,
    lately: Lately<Uuid, Arc<Recipe>, ByMemory>,
}

impl Recipes {
    pub(super) fn new(store: &Arc<dyn Store>, packs: &Arc<Packs>) -> Self {
        // As many as fit if all are full: to the cache a hint.
        let lately = Lately::new(100, MEMORY, ByMemory);
        Self { store: Arc::clone(store), packs: Arc::clone(packs), lately }
    }

    /// A recipe.
    pub(super) async fn get(self: &Arc<Self>, id: Uuid) -> Result<Arc<Recipe>> {
        let this = Arc::clone(self);
        let read = async move {
            let (paged, _) = this.paged(id).await?;
            Ok(Arc::new(this.read(id, &paged.pages).await?))
        };
        self.lately.get(id, read).await
    }

    /// A recipe as it is stored, and how many bytes it has there.
    pub(super) async fn paged(&self, id: Uuid) -> Result<(PagedRecipe, u64)> {
        let key = layout::recipe(id);
        let object = self.store.get(&key).await?;
        let recipe = PagedRecipe::decode(&object.bytes).map_err(|error| lost(id, &error))?;
        Ok((recipe, object.bytes.len() as u64))
    }

    /// What is in some pages of a recipe.
    pub(super) async fn read(&self, id: Uuid, pages: &[Page]) -> Result<Recipe> {
        // Those that were written together lie behind one another.
        let is_near = |one: &Page, next: &Page| {
            one.place.pack == next.place.pack && one.place.end() == u64::from(next.place.offset)
        };
        let runs = pages.chunk_by(is_near).flat_map(|run| run.chunks(PAGES_OF_RUN)).map(<[Page]>::to_vec);
        let read = |run: Vec<Page>| {
            let packs = Arc::clone(&self.packs);
            async move {
                let Some((pack, range)) = extent(&run) else { return Ok((Bytes::new(), run)) };
                Ok((packs.read(pack, range).await?, run))
            }
        };
        let runs: Vec<(Bytes, Vec<Page>)> =
            stream::iter(runs.collect::<Vec<_>>()).map(read).buffered(AHEAD).try_collect().await?;
        let decoded = blocking(move || {
            let mut entries = Vec::new();
            for (bytes, run) in &runs {
                decode(bytes, run, &mut entries).map_err(|error| (extent(run), error))?;
            }
            Ok(Recipe::of(entries))
        });
        decoded.await.map_err(|(extent, error): (_, InvalidRecipe)| {
            let Some((pack, range)) = extent else { return lost(id, &error) };
            let key = layout::data(pack);
            tracing::error!(pack = %key, recipe = %id, %error, "what is stored is damaged");
            self.packs.distrust(pack, &range);
            storage_backends::Error::DataLost { key, reason: error.to_string() }
        })
    }
}

/// Where pages are that lie behind one another.
fn extent(run: &[Page]) -> Option<(Uuid, Range<u64>)> {
    let (first, last) = (run.first()?, run.last()?);
    Some((first.place.pack, first.place.offset.into()..last.place.end()))
}

fn decode(
    mut bytes: &[u8],
    run: &[Page],
    entries: &mut Vec<Entry>,
) -> std::result::Result<(), InvalidRecipe> {
    for Page { id, place } in run {
        let (page, rest) = bytes.split_at_checked(place.stored as usize).unwrap_or_default();
        recipe_page::decode(id, page, entries)?;
        bytes = rest;
    }
    Ok(())
}

fn lost(id: Uuid, error: &InvalidRecipe) -> storage_backends::Error {
    storage_backends::Error::DataLost { key: layout::recipe(id), reason: error.to_string() }
}

#[derive(Debug, Clone)]
struct ByMemory;

impl Weighter<Uuid, Arc<Recipe>> for ByMemory {
    fn weight(&self, _: &Uuid, recipe: &Arc<Recipe>) -> u64 {
        (size_of::<Recipe>() + size_of_val(recipe.entries())) as u64
    }
}
