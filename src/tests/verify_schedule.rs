//! Verification from time to time: when it is due, by one replica of all.

use std::sync::Arc;
use std::time::Duration;

use dvcr::registry::Verification;
use storage_backends::Key;
use tokio::sync::mpsc;

use super::registry_under_test::{Client, chunked, memory, sample};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn what_is_stored_is_verified_when_the_interval_is_over_and_not_before() {
    let store = memory();
    let registry = chunked(&store);
    registry.push("a", &sample(100_000)).await.unwrap();
    let first = registry.verify_when_due(Duration::ZERO, None).await.unwrap();
    assert_eq!(first, None, "a registry that nobody knows of is not read as soon as it starts");
    assert_eq!(registry.verify_when_due(HOUR, None).await.unwrap(), None);
    let checked = registry.verify_when_due(Duration::ZERO, None).await.unwrap().unwrap();
    assert_eq!((checked.blobs.count, checked.findings), (1, 0));
    assert!(checked.read > 0);
    assert_eq!(chunked(&store).verify_when_due(HOUR, None).await.unwrap(), None);
}

#[tokio::test]
async fn one_replica_verifies_while_the_others_go_on() {
    let store = memory();
    let [first, second] = [chunked(&store), chunked(&store)].map(Arc::new);
    first.push("a", &sample(100_000)).await.unwrap();
    first.verify_when_due(Duration::ZERO, None).await.unwrap();
    let before = store.get(&Key::parse("verified").unwrap()).await.unwrap().bytes;
    let slow = Arc::clone(&first);
    let slow = tokio::spawn(async move { slow.verify_when_due(Duration::ZERO, Some(1)).await });
    while store.get(&Key::parse("verified").unwrap()).await.unwrap().bytes == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(second.verify_when_due(Duration::ZERO, None).await.unwrap(), None);
    slow.abort();
}

#[tokio::test]
async fn what_somebody_has_had_verified_is_not_due() {
    let store = memory();
    let registry = chunked(&store);
    registry.push("a", &sample(100_000)).await.unwrap();
    let (lines, mut told) = mpsc::channel(100);
    assert!(registry.verify(Verification::default(), &lines).await.unwrap().is_some());
    assert!(told.recv().await.is_some());
    assert_eq!(registry.verify_when_due(HOUR, None).await.unwrap(), None);
    assert!(registry.verify_when_due(Duration::ZERO, None).await.unwrap().is_some());
}
