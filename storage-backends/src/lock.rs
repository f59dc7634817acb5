//! One lock per key, for backends whose medium cannot compare and swap.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

use crate::Key;

/// A fixed number of locks shared out over all keys: two keys may share one, which costs waiting, never
/// correctness, and needs no bookkeeping.
#[derive(Debug)]
pub(crate) struct KeyLocks {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl KeyLocks {
    /// Arbitrary; well above the number of requests that write at one time.
    const STRIPES: usize = 256;

    pub(crate) fn new() -> Self {
        Self {
            stripes: std::iter::repeat_with(|| Mutex::new(())).take(Self::STRIPES).collect(),
            hasher: RandomState::new(),
        }
    }

    pub(crate) async fn lock(&self, key: &Key) -> MutexGuard<'_, ()> {
        #[expect(clippy::cast_possible_truncation, reason = "only the remainder matters")]
        let stripe = self.hasher.hash_one(key) as usize % Self::STRIPES;
        self.stripes[stripe].lock().await
    }
}
