//! The contract, on a directory.

#![expect(clippy::unwrap_used, reason = "clippy sees tests only in functions that are marked as such")]

use std::sync::Arc;

use bytes::Bytes;
use storage_backends::contract::Fixture;
use storage_backends::{Condition, Error, Filesystem, Key, Store as _, contract_tests};

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

#[tokio::test]
async fn what_a_killed_process_has_staged_goes_when_the_next_one_begins() {
    let keep = tempfile::tempdir().unwrap();
    let key = Key::parse("small/whole").unwrap();
    let first = Filesystem::open(keep.path()).await.unwrap();
    first.put(&key, Bytes::from_static(b"whole"), Condition::Absent).await.unwrap();
    drop(first);
    let staging = keep.path().join("dvcr.staging");
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
    std::fs::write(staging.join("7"), b"half").unwrap();
    let second = Filesystem::open(keep.path()).await.unwrap();
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
    assert_eq!(second.get(&key).await.unwrap().bytes, "whole");
}

#[tokio::test]
async fn a_folder_that_somebody_removes_is_made_again() {
    let keep = tempfile::tempdir().unwrap();
    let key = Key::parse("one/two/three").unwrap();
    let store = Filesystem::open(keep.path()).await.unwrap();
    for _ in 0..2 {
        store.put(&key, Bytes::from_static(b"x"), Condition::Absent).await.unwrap();
        std::fs::remove_dir_all(keep.path().join("one")).unwrap();
        drop(store.create_data(&key).await.unwrap());
        std::fs::remove_dir_all(keep.path().join("one")).unwrap();
    }
}
