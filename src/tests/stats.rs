//! What is counted: what clients see, what is different, what is stored, and whose it is.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use storage_backends::{Key, Store};

use super::registry_under_test::{Client, chunked, memory, name, sha256};
use dvcr::registry::{Registry, RepositoryStats, Stats};

/// So many bytes that do not compress and are different for each seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut word = seed << 32 | 1;
    let next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn repository<'a>(stats: &'a Stats, name: &str) -> &'a RepositoryStats {
    stats.repositories.iter().find(|repository| repository.name == name).unwrap()
}

async fn kept(store: &Arc<dyn Store>) -> u64 {
    let mut sum = 0;
    for folder in ["data", "recipes"] {
        let entries = store.list(&Key::parse(folder).unwrap(), None);
        sum += entries.try_fold(0, async |sum, entry| Ok(sum + entry.size)).await.unwrap();
    }
    sum
}

#[tokio::test]
async fn an_empty_registry_holds_nothing() {
    let stats = chunked(&memory()).stats().await.unwrap();
    assert_eq!((stats.blobs, stats.logical_bytes, stats.stored_bytes), (0, 0, 0));
    assert!(stats.repositories.is_empty());
    assert!((stats.dedup_ratio - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn what_two_repositories_have_is_stored_once_and_belongs_to_neither() {
    let store = memory();
    let registry = chunked(&store);
    let blob = Bytes::from(noise(2_000_000, 1));
    registry.push("a", &blob).await.unwrap();
    let alone = registry.stats().await.unwrap();
    assert_eq!(repository(&alone, "a").exclusive_bytes, alone.stored_bytes);
    assert_eq!(alone.stored_bytes, kept(&store).await);
    registry.push("b", &blob).await.unwrap();
    let shared = registry.stats().await.unwrap();
    assert_eq!((shared.blobs, shared.logical_bytes), (1, 4_000_000));
    assert_eq!((shared.different_bytes, shared.stored_bytes), (2_000_000, alone.stored_bytes));
    for name in ["a", "b"] {
        assert_eq!(repository(&shared, name).exclusive_bytes, 0);
        assert_eq!(
            (repository(&shared, name).blobs, repository(&shared, name).logical_bytes),
            (1, 2_000_000)
        );
    }
    // Without the one, all of it is the other's.
    registry.delete_blob(&name("b"), &sha256(&blob)).await.unwrap();
    assert_eq!(repository(&registry.stats().await.unwrap(), "a").exclusive_bytes, alone.stored_bytes);
}

#[tokio::test]
async fn of_a_later_version_only_what_has_changed_is_its_own() {
    let registry = chunked(&memory());
    let first = noise(4_000_000, 1);
    let second = [&first[..3_600_384], &noise(400_000, 2)].concat();
    registry.push("a", &first.into()).await.unwrap();
    registry.push("b", &second.into()).await.unwrap();
    let stats = registry.stats().await.unwrap();
    for name in ["a", "b"] {
        let own = repository(&stats, name).exclusive_bytes;
        assert!((390_000..700_000).contains(&own), "{name}: {own}");
    }
    assert!(stats.stored_bytes < 4_800_000, "{}", stats.stored_bytes);
}

#[tokio::test]
async fn zeros_and_what_compresses_show_in_the_ratios() {
    let registry = chunked(&memory());
    let text: Vec<u8> = noise(1_000_000, 1).iter().map(|byte| byte % 8).collect();
    let disk = [text, vec![0; 3_000_000]].concat();
    registry.push("a", &disk.into()).await.unwrap();
    let stats = registry.stats().await.unwrap();
    assert_eq!(stats.logical_bytes, 4_000_000);
    assert!((990_000..=1_020_000).contains(&stats.different_bytes), "{}", stats.different_bytes);
    assert!(stats.dedup_ratio > 3.9 && stats.compression_ratio > 2.0, "{stats:?}");
}

#[tokio::test]
async fn what_was_deleted_or_is_not_finished_is_told_as_unreferenced() {
    let store = memory();
    for registry in [chunked(&store), Registry::new(Arc::clone(&store))] {
        let before = registry.stats().await.unwrap();
        assert_eq!(before.stored_bytes, 0);
        let blob = Bytes::from(noise(2_000_000, before.unreferenced_bytes));
        registry.push("a", &blob).await.unwrap();
        let whole = registry.stats().await.unwrap();
        assert_eq!(whole.unreferenced_bytes, before.unreferenced_bytes);
        registry.delete_blob(&name("a"), &sha256(&blob)).await.unwrap();
        let after = registry.stats().await.unwrap();
        assert_eq!((after.blobs, after.logical_bytes, after.stored_bytes), (0, 0, 0));
        assert_eq!(after.unreferenced_bytes, before.unreferenced_bytes + whole.stored_bytes);
        assert_eq!(after.unreferenced_bytes, kept(&store).await);
    }
}
