//! [`Tally`]: what was spared by knowing chunks, counted since the process began.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts bytes of blobs on their way into chunks.
#[derive(Debug, Default)]
pub struct Tally {
    zeros: AtomicU64,
    known: AtomicU64,
    new: AtomicU64,
    stored: AtomicU64,
}

/// Bytes that came to be stored in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    /// Zeros, which are not stored.
    pub zeros: u64,
    /// In chunks that were stored before.
    pub known: u64,
    /// In chunks that were not.
    pub new: u64,
    /// What those take in the store.
    pub stored: u64,
}

impl Tally {
    pub(super) fn add_zeros(&self, bytes: u64) {
        self.zeros.fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_known(&self, bytes: u32) {
        self.known.fetch_add(bytes.into(), Relaxed);
    }

    pub(super) fn add_new(&self, bytes: u32, stored: u32) {
        self.new.fetch_add(bytes.into(), Relaxed);
        self.stored.fetch_add(stored.into(), Relaxed);
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Chunked {
        let [zeros, known, new, stored] =
            [&self.zeros, &self.known, &self.new, &self.stored].map(|count| count.load(Relaxed));
        Chunked { zeros, known, new, stored }
    }
}
