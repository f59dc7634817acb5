//! The contract, in memory.

use std::sync::Arc;

use storage_backends::contract::Fixture;
use storage_backends::{Memory, MemoryOptions, contract_tests};

#[expect(clippy::unused_async, reason = "other backends are opened with a wait")]
async fn memory() -> Fixture {
    Fixture { store: Arc::new(Memory::empty(MemoryOptions::default())), keep: Box::new(()) }
}

contract_tests!(memory);
