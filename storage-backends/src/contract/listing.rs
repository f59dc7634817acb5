//! Listings.

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};

use super::{Fixture, key};
use crate::{Condition, Key};

async fn fill(f: &Fixture, keys: &[&str]) {
    for text in keys {
        f.store.put(&key(text), Bytes::from_static(b"x"), Condition::None).await.unwrap();
    }
}

async fn listed(f: &Fixture, prefix: &str, after: Option<&str>) -> Vec<String> {
    f.store
        .list(&key(prefix), after.map(key).as_ref())
        .map_ok(|entry| entry.key.as_str().to_owned())
        .try_collect()
        .await
        .unwrap()
}

/// Names that a directory, or a collation, would put in another order.
const NAMES: [&str; 8] =
    ["list/a!", "list/a-b!", "list/a.b!", "list/a0!", "list/aB!", "list/a_!", "list/aa", "list/b"];

/// Upper case before lower case, punctuation before letters.
pub async fn a_folder_lists_in_byte_order(f: &Fixture) {
    let mut shuffled = NAMES;
    shuffled.reverse();
    fill(f, &shuffled).await;
    assert_eq!(listed(f, "list", None).await, NAMES);
}

/// The starting point is exclusive and need not exist.
pub async fn a_listing_starts_after_any_key(f: &Fixture) {
    fill(f, &NAMES).await;
    for (i, start) in NAMES.iter().enumerate() {
        assert_eq!(listed(f, "list", Some(start)).await, NAMES[i + 1..], "after {start}");
    }
    assert_eq!(listed(f, "list", Some("list/a-a")).await, NAMES[1..]);
    assert_eq!(listed(f, "list", Some("list/a9")).await, NAMES[4..]);
    assert!(listed(f, "list", Some("list/zz")).await.is_empty());
    assert!(listed(f, "list", Some("lisu/a")).await.is_empty());
    assert_eq!(listed(f, "list", Some("lis/zz")).await, NAMES);
}

/// Siblings whose names begin alike are not in it.
pub async fn a_listing_is_of_a_folder_not_of_a_prefix(f: &Fixture) {
    fill(f, &["folder/x", "folder-2/x", "folder2"]).await;
    assert_eq!(listed(f, "folder", None).await, ["folder/x"]);
    assert!(listed(f, "nowhere", None).await.is_empty());
}

/// Sizes need no read.
pub async fn a_listing_tells_sizes(f: &Fixture) {
    f.store.put(&key("sizes/a"), Bytes::new(), Condition::None).await.unwrap();
    f.store.put(&key("sizes/b"), Bytes::from_static(b"12345"), Condition::None).await.unwrap();
    let sizes: Vec<u64> =
        f.store.list(&key("sizes"), None).map_ok(|entry| entry.size).try_collect().await.unwrap();
    assert_eq!(sizes, [0, 5]);
}

/// More than one page of any backend.
pub async fn a_listing_of_thousands_is_complete(f: &Fixture) {
    let keys: Vec<Key> = (0..2_500).map(|i| key(&format!("many/{:02}/{i:05}", i / 100))).collect();
    for group in keys.chunks(50) {
        try_join_all(group.iter().map(|key| f.store.put(key, Bytes::from_static(b"x"), Condition::None)))
            .await
            .unwrap();
    }
    let all: Vec<Key> = f.store.list(&key("many"), None).map_ok(|e| e.key).try_collect().await.unwrap();
    assert_eq!(all, keys);
    // Once more, of which a backend may have kept something, and with something new.
    let large: Vec<Key> = (0..600).map(|i| key(&format!("large/{i:05}"))).collect();
    for group in large.chunks(50) {
        try_join_all(group.iter().map(|key| f.store.put(key, Bytes::from_static(b"x"), Condition::None)))
            .await
            .unwrap();
    }
    for last in 600..604 {
        let (after, next) = (key("large/00298"), key(&format!("large/{last:05}")));
        let page: Vec<Key> =
            f.store.list(&key("large"), Some(&after)).map(|e| e.unwrap().key).collect().await;
        assert_eq!(page.len(), last - 299, "of {last}");
        assert_eq!(page[..10], large[299..309]);
        f.store.put(&next, Bytes::from_static(b"x"), Condition::None).await.unwrap();
    }
    let some: Vec<Key> =
        f.store.list(&key("many"), Some(&keys[1_234])).map(|e| e.unwrap().key).take(10).collect().await;
    assert_eq!(some, keys[1_235..1_245]);
}
