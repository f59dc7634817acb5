//! Small objects.

use bytes::Bytes;
use futures::future::join_all;

use super::{Fixture, key};
use crate::{Condition, Error};

/// Bytes come back as they were put, and a later put replaces them.
pub async fn a_put_object_is_read_back_whole(f: &Fixture) {
    let key = key("small/a/b!");
    for bytes in [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 300_000])] {
        let version = f.store.put(&key, bytes.clone(), Condition::None).await.unwrap();
        let object = f.store.get(&key).await.unwrap();
        assert_eq!(object.bytes, bytes);
        assert_eq!(object.version, version);
    }
}

/// Absence is an answer of its own.
pub async fn an_unknown_object_is_not_found(f: &Fixture) {
    let key = key("small/none");
    assert!(matches!(f.store.get(&key).await, Err(Error::NotFound { .. })));
    assert!(matches!(f.store.read(&key, 0..1).await, Err(Error::NotFound { .. })));
}

/// Put-if-absent is atomic.
pub async fn of_racing_creations_exactly_one_wins(f: &Fixture) {
    let key = key("small/raced");
    let racers = (0..24u8).map(|i| f.store.put(&key, Bytes::from(vec![i]), Condition::Absent));
    let outcomes = join_all(racers).await;
    let winners: Vec<_> = outcomes.iter().enumerate().filter(|(_, o)| o.is_ok()).map(|(i, _)| i).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|o| matches!(o, Ok(_) | Err(Error::AlreadyExists { .. }))), "{outcomes:?}");
    assert_eq!(usize::from(f.store.get(&key).await.unwrap().bytes[0]), winners[0]);
}

/// Compare-and-swap is atomic.
pub async fn of_racing_replacements_of_one_version_exactly_one_wins(f: &Fixture) {
    let key = key("small/swapped");
    let first = f.store.put(&key, Bytes::from_static(b"first"), Condition::None).await.unwrap();
    let racers =
        (0..24u8).map(|i| f.store.put(&key, Bytes::from(vec![i]), Condition::Unchanged(first.clone())));
    let outcomes = join_all(racers).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|o| matches!(o, Ok(_) | Err(Error::Changed { .. }))), "{outcomes:?}");
}

/// A version is of one state only.
pub async fn a_stale_version_replaces_nothing(f: &Fixture) {
    let key = key("small/stale");
    let first = f.store.put(&key, Bytes::from_static(b"1"), Condition::Absent).await.unwrap();
    f.store.put(&key, Bytes::from_static(b"2"), Condition::Unchanged(first.clone())).await.unwrap();
    let late = f.store.put(&key, Bytes::from_static(b"3"), Condition::Unchanged(first)).await;
    assert!(matches!(late, Err(Error::Changed { .. })), "{late:?}");
    assert_eq!(f.store.get(&key).await.unwrap().bytes, "2");
}

/// Replacing never creates.
pub async fn a_deleted_object_is_replaced_by_no_version(f: &Fixture) {
    let key = key("small/gone");
    let first = f.store.put(&key, Bytes::from_static(b"1"), Condition::Absent).await.unwrap();
    f.store.delete(&key).await.unwrap();
    let late = f.store.put(&key, Bytes::from_static(b"2"), Condition::Unchanged(first)).await;
    assert!(matches!(late, Err(Error::Changed { .. })), "{late:?}");
    assert!(matches!(f.store.get(&key).await, Err(Error::NotFound { .. })));
    f.store.put(&key, Bytes::from_static(b"3"), Condition::Absent).await.unwrap();
}

/// Deleting can be repeated.
pub async fn deleting_twice_succeeds(f: &Fixture) {
    let key = key("small/twice");
    f.store.put(&key, Bytes::from_static(b"1"), Condition::Absent).await.unwrap();
    f.store.delete(&key).await.unwrap();
    assert!(matches!(f.store.get(&key).await, Err(Error::NotFound { .. })));
    f.store.delete(&key).await.unwrap();
}
