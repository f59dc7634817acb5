//! One lock per key, for backends whose medium cannot compare and swap.

use std::hash::{BuildHasher, RandomState};

use std::sync::Arc;

use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};

use crate::Key;

/// A fixed number of locks shared out over all keys: two keys may share one, which costs waiting, never
/// correctness, and needs no bookkeeping.
#[derive(Debug)]
pub(crate) struct KeyLocks {
    stripes: Vec<Arc<RwLock<()>>>,
    hasher: RandomState,
}

impl KeyLocks {
    /// Arbitrary; so far above the number of requests that write at one time that who reads seldom waits for another key.
    const STRIPES: usize = 4096;

    pub(crate) fn new() -> Self {
        Self {
            stripes: std::iter::repeat_with(Arc::default).take(Self::STRIPES).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The lock of a key, for whoever writes it: it goes with the write, which goes on when nobody waits for it any more.
    pub(crate) async fn lock(&self, key: &Key) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(self.stripe(key)).write_owned().await
    }

    /// Whether nobody holds the lock, or waits for it.
    pub(crate) fn is_free(&self, key: &Key) -> bool {
        self.stripe(key).try_read().is_ok()
    }

    /// Keeps others from taking the lock, once nobody has it.
    pub(crate) async fn share(&self, key: &Key) -> RwLockReadGuard<'_, ()> {
        self.stripe(key).read().await
    }

    fn stripe(&self, key: &Key) -> &Arc<RwLock<()>> {
        #[expect(clippy::cast_possible_truncation, reason = "only the remainder matters")]
        let stripe = self.hasher.hash_one(key) as usize % Self::STRIPES;
        &self.stripes[stripe]
    }
}
