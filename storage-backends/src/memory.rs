//! Memory as a store: for tests, and for a registry that forgets.

use object_store::memory::InMemory;

use crate::Bucket;
use crate::bucket::PartRule;

/// A store in memory.
pub type Memory = Bucket<InMemory>;

/// How a store in memory cuts data objects, so that tests meet in kilobytes what S3 meets in gigabytes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryOptions {
    /// Bytes in a part.
    pub part_size: u64,
    /// The most parts in an object.
    pub most_parts: u64,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { part_size: 1 << 20, most_parts: 10_000 }
    }
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn empty(options: MemoryOptions) -> Self {
        let parts = PartRule { size: options.part_size, most: options.most_parts, in_flight: 2 };
        Self::new(InMemory::new(), "memory", parts)
    }
}
