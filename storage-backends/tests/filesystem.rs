//! The contract, on a directory.

#![expect(clippy::unwrap_used, reason = "clippy sees tests only in functions that are marked as such")]

use std::sync::Arc;

use storage_backends::contract::Fixture;
use storage_backends::{Error, Filesystem, contract_tests};

async fn directory() -> Fixture {
    let keep = tempfile::tempdir().unwrap();
    Fixture { store: Arc::new(Filesystem::open(keep.path()).await.unwrap()), keep: Box::new(keep) }
}

contract_tests!(directory);

#[tokio::test]
async fn a_directory_belongs_to_one_process() {
    let keep = tempfile::tempdir().unwrap();
    let first = Filesystem::open(keep.path()).await.unwrap();
    let second = Filesystem::open(keep.path()).await;
    assert!(matches!(&second, Err(Error::Unusable { what, .. }) if what.contains("another process")));
    drop(first);
    Filesystem::open(keep.path()).await.unwrap();
}
