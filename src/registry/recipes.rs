//! [`Recipes`]: recipes out of the store, and those that were used lately out of memory.
//!
//! A machine that runs from a disk reads it in a thousand small pieces a second, and all of them by one recipe; a hundred
//! machines that start at once need the same one at once. It is fetched and decoded once for all of them.

use std::sync::Arc;

use quick_cache::Weighter;
use storage_backends::{Result, Store};
use uuid::Uuid;

use super::blocking::blocking;
use super::lately::Lately;
use super::layout;
use super::recipe::Recipe;

/// Bytes of memory that decoded recipes may take: those of some 25 GiB of disks.
const MEMORY: u64 = 32 << 20;

/// The recipes of a store.
#[derive(Debug)]
pub(super) struct Recipes {
    store: Arc<dyn Store>,
    lately: Lately<Uuid, Arc<Recipe>, ByMemory>,
}

impl Recipes {
    pub(super) fn new(store: &Arc<dyn Store>) -> Self {
        // As many as fit if all are full: to the cache a hint.
        let lately = Lately::new(100, MEMORY, ByMemory);
        Self { store: Arc::clone(store), lately }
    }

    /// A recipe.
    pub(super) async fn get(self: &Arc<Self>, id: Uuid) -> Result<Arc<Recipe>> {
        let this = Arc::clone(self);
        self.lately.get(id, async move { Ok(Arc::new(this.read(id).await?.0)) }).await
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
