//! [`Recipes`]: recipes out of the store, and those that were used lately out of memory.
//!
//! A machine that runs from a disk reads it in a thousand small pieces a second, and all of them by one recipe; a hundred
//! machines that start at once need the same one at once. It is fetched and decoded once for all of them.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use storage_backends::{Result, Store};
use uuid::Uuid;

use super::blocking::{blocking, detached};
use super::layout;
use super::recipe::Recipe;

/// Bytes of memory that decoded recipes may take: those of some 25 GiB of disks.
const MEMORY: u64 = 32 << 20;

/// The recipes of a store.
#[derive(Debug)]
pub(super) struct Recipes {
    store: Arc<dyn Store>,
    lately: Cache<Uuid, Arc<Recipe>, ByMemory>,
}

impl Recipes {
    pub(super) fn new(store: &Arc<dyn Store>) -> Self {
        // As many as fit if all are full: to the cache a hint.
        let lately = Cache::with_weighter(100, MEMORY, ByMemory);
        Self { store: Arc::clone(store), lately }
    }

    /// A recipe.
    pub(super) async fn get(self: &Arc<Self>, id: Uuid) -> Result<Arc<Recipe>> {
        if let Some(recipe) = self.lately.get(&id) {
            return Ok(recipe);
        }
        let this = Arc::clone(self);
        // A reader that stops reading must not hold up those that wait for the same recipe.
        let read = async move {
            let read = async { Ok(Arc::new(this.read(id).await?.0)) };
            this.lately.get_or_insert_async(&id, read).await
        };
        detached(read).await
    }

    /// A recipe out of the store, and how many bytes it has there.
    pub(super) async fn read(&self, id: Uuid) -> Result<(Recipe, u64)> {
        let key = layout::recipe(id);
        let object = self.store.get(&key).await?;
        let size = object.bytes.len() as u64;
        let decoded = blocking(move || Recipe::decode(&object.bytes)).await;
        match decoded {
            Ok(recipe) => Ok((recipe, size)),
            Err(error) => Err(storage_backends::Error::DataLost { key, reason: error.to_string() }),
        }
    }
}

#[derive(Debug, Clone)]
struct ByMemory;

impl Weighter<Uuid, Arc<Recipe>> for ByMemory {
    fn weight(&self, _: &Uuid, recipe: &Arc<Recipe>) -> u64 {
        (size_of::<Recipe>() + size_of_val(recipe.entries())) as u64
    }
}
