//! [`Lately`]: what was read lately, in bounded memory; what many ask for at once is read once.

use std::hash::Hash;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use storage_backends::Result;

use super::blocking::detached;

/// What was read lately.
pub(super) struct Lately<K, V, W>(Arc<Cache<K, V, W>>);

impl<K, V, W> std::fmt::Debug for Lately<K, V, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lately").finish_non_exhaustive()
    }
}

impl<K, V, W> Lately<K, V, W>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    W: Weighter<K, V> + Clone + Send + Sync + 'static,
{
    /// Keeps `memory` bytes, by the word of `weighter`. `number` is how many values that are, about.
    pub(super) fn new(number: usize, memory: u64, weighter: W) -> Self {
        Self(Arc::new(Cache::with_weighter(number, memory, weighter)))
    }

    /// A value, which `read` brings if it is not there.
    pub(super) async fn get(
        &self,
        key: K,
        read: impl Future<Output = Result<V>> + Send + 'static,
    ) -> Result<V> {
        if let Some(value) = self.0.get(&key) {
            return Ok(value);
        }
        let values = Arc::clone(&self.0);
        // Apart from whoever asks: a client that stops reading must not hold up those that wait for the same value.
        detached(async move { values.get_or_insert_async(&key, read).await }).await
    }

    /// Reads a value anew the next time.
    pub(super) fn forget(&self, key: &K) {
        self.0.remove(key);
    }
}
