//! [`Source`]: what blobs are read from.

use std::sync::Arc;

use storage_backends::Store;

use super::packs::Packs;
use super::recipes::Recipes;

/// A store, with what is kept of it in memory.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) store: Arc<dyn Store>,
    pub(super) recipes: Arc<Recipes>,
    pub(super) packs: Arc<Packs>,
}

impl Source {
    /// Keeps so many bytes of packs in memory; 0: none.
    pub(super) fn new(store: &Arc<dyn Store>, memory: u64) -> Self {
        let packs = Arc::new(Packs::new(store, memory));
        Self { store: Arc::clone(store), recipes: Arc::new(Recipes::new(store, &packs)), packs }
    }
}
