//! The contract, in memory.

use std::sync::Arc;

use storage_backends::contract::Fixture;
use storage_backends::{Memory, MemoryOptions, contract_tests};

#[expect(clippy::unused_async, reason = "other backends are opened with a wait")]
async fn memory() -> Fixture {
    Fixture { store: Arc::new(Memory::empty(MemoryOptions::default())), keep: Box::new(()) }
}

contract_tests!(memory);

/// As on an S3 server whose conditional puts do not work, with `s3.single_writer` set.
mod without_conditional_put {
    use super::{Arc, Fixture, Memory, MemoryOptions, contract_tests};

    #[expect(clippy::unused_async, reason = "other backends are opened with a wait")]
    async fn memory() -> Fixture {
        let options = MemoryOptions { conditional_put: false, ..MemoryOptions::default() };
        Fixture { store: Arc::new(Memory::empty(options)), keep: Box::new(()) }
    }

    contract_tests!(memory);
}
