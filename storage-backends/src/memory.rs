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
    /// Conditional puts are the store's own; otherwise this process does them, as for S3 servers without.
    pub conditional_put: bool,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { part_size: 1 << 20, most_parts: 10_000, conditional_put: true }
    }
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn empty(options: MemoryOptions) -> Self {
        let parts = PartRule { size: options.part_size, most: options.most_parts, in_flight: 2 };
        let store = Self::new(InMemory::new(), "memory", parts);
        if options.conditional_put { store } else { store.without_conditional_put() }
    }
}
