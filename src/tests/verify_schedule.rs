//! Verification from time to time: when it is due, by one replica of all.

use std::sync::Arc;
use std::time::Duration;

use dvcr::registry::{Verification, Verifier};
use tokio::sync::mpsc;

use super::registry_under_test::{Client, chunked, memory, objects, sample};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn what_is_stored_is_verified_when_the_interval_is_over_and_not_before() {
    let store = memory();
    let registry = Arc::new(chunked(&store));
    registry.push("a", &sample(100_000)).await.unwrap();
    let mut verifier = Verifier::new(registry);
    let first = verifier.verify_when_due(Duration::ZERO, None).await.unwrap();
    assert_eq!(first, None, "a registry that nobody knows of is not read as soon as it starts");
    assert_eq!(verifier.verify_when_due(HOUR, None).await.unwrap(), None);
    let waited_for_since = verifier.last_done().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let checked = verifier.verify_when_due(Duration::ZERO, None).await.unwrap().unwrap();
    assert!(verifier.last_done().await.unwrap().unwrap() > waited_for_since);
    assert_eq!((checked.blobs.count, checked.findings), (1, 0));
    assert!(checked.read > 0);
    let mut other = Verifier::new(Arc::new(chunked(&store)));
    assert_eq!(other.verify_when_due(HOUR, None).await.unwrap(), None);
    assert!(other.verify_when_due(Duration::ZERO, None).await.unwrap().is_some(), "nobody is at it any more");
}

#[tokio::test]
async fn one_replica_verifies_while_the_others_go_on() {
    let store = memory();
    let [first, second] = [chunked(&store), chunked(&store)].map(Arc::new);
    first.push("a", &sample(100_000)).await.unwrap();
    let [mut first, mut second] = [first, second].map(Verifier::new);
    first.verify_when_due(Duration::ZERO, None).await.unwrap();
    let slow = tokio::spawn(async move { first.verify_when_due(Duration::ZERO, Some(1)).await });
    while objects(&store, "leases").await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(second.verify_when_due(Duration::ZERO, None).await.unwrap(), None);
    slow.abort();
}

#[tokio::test]
async fn what_somebody_has_had_verified_is_not_due() {
    let store = memory();
    let registry = Arc::new(chunked(&store));
    registry.push("a", &sample(100_000)).await.unwrap();
    let (lines, mut told) = mpsc::channel(100);
    assert!(registry.verify(Verification::default(), &lines).await.unwrap().is_some());
    assert!(told.recv().await.is_some());
    let mut verifier = Verifier::new(registry);
    assert_eq!(verifier.verify_when_due(HOUR, None).await.unwrap(), None);
    assert!(verifier.verify_when_due(Duration::ZERO, None).await.unwrap().is_some());
}
