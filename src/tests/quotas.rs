//! Quotas: what they count, when something is refused, and that reading and deleting go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dvcr::registry::{Append, Error, Quota, QuotaExceeded, QuotaStats, Registry, Repositories, Result};
use storage_backends::dawdle::Dawdling;
use storage_backends::fault::Fault;
use storage_backends::{Condition, Store};
use uuid::Uuid;

use super::registry_under_test::{
    Client, at, body, faulty, memory, name, objects, registry, rules, sample, sha256,
};

fn quota(folder: &'static str, bytes: Option<u64>, tags: Option<u64>) -> Quota {
    let repositories = Repositories::that(move |name| name.as_str().starts_with(folder));
    Quota { name: format!("{folder}/**"), folders: vec![folder.to_owned()], repositories, bytes, tags }
}

fn limited(store: &Arc<dyn Store>, quotas: Vec<Quota>) -> Registry {
    registry(store).with_quotas(quotas)
}

fn team(store: &Arc<dyn Store>, bytes: u64) -> Registry {
    limited(store, vec![quota("team", Some(bytes), None)])
}

fn exceeded<T: std::fmt::Debug>(result: Result<T>) -> QuotaExceeded {
    match result {
        Err(Error::QuotaExceeded(exceeded)) => exceeded,
        other => panic!("{other:?}"),
    }
}

/// Different bytes for each number.
fn blob(number: u8, length: usize) -> Bytes {
    sample(length).iter().map(|byte| byte ^ number).collect()
}

async fn usage(registry: &Registry) -> QuotaStats {
    registry.quotas().count_all().await.unwrap().remove(0)
}

#[tokio::test]
async fn a_blob_that_is_too_much_is_refused_and_leaves_nothing() {
    let store = memory();
    let registry = team(&store, 10_000);
    registry.push("team/a", &blob(1, 6000)).await.unwrap();
    let error = exceeded(registry.push("team/b", &blob(2, 5000)).await);
    assert_eq!((error.limit, error.used), (10_000, 6000));
    assert!(error.to_string().contains("team/**"), "{error}");
    assert_eq!(usage(&registry).await.used_bytes, 6000);
    // What fits gets in, and others are not touched.
    registry.push("team/b", &blob(3, 4000)).await.unwrap();
    registry.push("other", &blob(4, 50_000)).await.unwrap();
    assert_eq!(usage(&registry).await.used_bytes, 10_000);
    let stats = registry.stats().await.unwrap();
    assert_eq!(stats.unreferenced_bytes, 0);
}

#[tokio::test]
async fn what_is_announced_is_refused_before_it_is_sent() {
    let store = memory();
    let registry = team(&store, 10_000);
    let digest = sha256(b"whatever");
    let append = Append { start: None, length: Some(100 << 30) };
    let unread = blob(1, 100);
    let error = exceeded(registry.push_blob(&name("team/a"), append, &mut body(&unread), &digest).await);
    assert_eq!(error.wanted, 100 << 30);
    let id = registry.begin("team/a").await;
    registry.append_bytes("team/a", id, 0, &blob(1, 4000)).await.unwrap();
    let append = Append { start: Some(4000), length: Some(6001) };
    let error = exceeded(registry.append(&name("team/a"), id, append, &mut body(&unread)).await);
    assert_eq!(error.wanted, 10_001);
    // The upload stands where it was.
    assert_eq!(registry.upload_status(&name("team/a"), id).await.unwrap().length, 4000);
}

#[tokio::test]
async fn what_is_not_announced_is_refused_where_it_becomes_too_much() {
    let store = memory();
    let registry = team(&store, 10_000);
    let id = registry.begin("team/a").await;
    let mut endless = body(&blob(1, 20_000));
    exceeded(registry.append(&name("team/a"), id, Append::default(), &mut endless).await);
    assert!(registry.upload_status(&name("team/a"), id).await.unwrap().length <= 10_000);
    assert_eq!(usage(&registry).await.used_bytes, 0);
    registry.push("team/a", &blob(1, 10_000)).await.unwrap();
    // A full quota takes no upload that begins.
    let begun = registry.begin_upload(&name("team/b"), dvcr::oci::Algorithm::Sha256).await;
    exceeded(begun);
}

#[tokio::test]
async fn a_blob_counts_once_however_many_repositories_have_it() {
    let store = memory();
    let registry = team(&store, 17_000);
    let bytes = blob(1, 8000);
    let digest = registry.push("team/a", &bytes).await.unwrap();
    assert!(registry.mount(&name("team/b"), &digest, Some(&name("team/a"))).await.unwrap());
    registry.push("team/c", &bytes).await.unwrap();
    assert_eq!(usage(&registry).await.used_bytes, 8000);
    // By a mount as well as by an upload.
    let foreign = registry.push("other", &blob(2, 10_000)).await.unwrap();
    exceeded(registry.mount(&name("team/a"), &foreign, Some(&name("other"))).await);
    exceeded(registry.mount(&name("team/a"), &foreign, None).await);
    // Where there is no room at all it can be had still.
    registry.push("team/d", &blob(3, 9000)).await.unwrap();
    assert!(registry.mount(&name("team/e"), &digest, Some(&name("team/a"))).await.unwrap());
}

#[tokio::test]
async fn deleting_makes_room_and_reading_goes_on() {
    let store = memory();
    let registry = team(&store, 10_000);
    let bytes = blob(1, 10_000);
    let digest = registry.push("team/a", &bytes).await.unwrap();
    exceeded(registry.push("team/a", &blob(2, 10)).await);
    assert_eq!(registry.pull("team/a", &digest).await.unwrap(), bytes);
    registry.delete_blob(&name("team/a"), &digest).await.unwrap();
    registry.push("team/a", &blob(2, 10)).await.unwrap();
    assert_eq!(usage(&registry).await.used_bytes, 10);
}

#[tokio::test]
async fn new_tags_are_counted_and_those_that_move_are_not() {
    let store = memory();
    let registry = limited(&store, vec![quota("team", None, Some(2))]);
    let layer = blob(1, 500);
    registry.push_image("team/a", "v1", &layer).await.unwrap();
    registry.push_image("team/b", "v1", &layer).await.unwrap();
    let error = exceeded(registry.push_image("team/a", "v2", &layer).await);
    assert_eq!((error.unit, error.limit, error.used, error.wanted), ("tags", 2, 2, 1));
    registry.push_image("team/a", "v1", &blob(2, 500)).await.unwrap();
    registry.delete_tag(&name("team/b"), &"v1".parse().unwrap()).await.unwrap();
    registry.push_image("team/a", "v2", &layer).await.unwrap();
    assert_eq!(usage(&registry).await.used_tags, 2);
}

#[tokio::test]
async fn the_strictest_of_several_quotas_decides() {
    let store = memory();
    let quotas = vec![quota("team", Some(10_000), None), quota("team/a", Some(3000), None)];
    let registry = limited(&store, quotas);
    assert_eq!(exceeded(registry.push("team/a", &blob(1, 4000)).await).quota, "team/a/**");
    registry.push("team/b", &blob(1, 8000)).await.unwrap();
    assert_eq!(exceeded(registry.push("team/a", &blob(2, 2500)).await).quota, "team/**");
    registry.push("team/a", &blob(3, 2000)).await.unwrap();
}

#[tokio::test]
async fn what_was_there_before_counts_and_another_replica_sees_it() {
    let store = memory();
    registry(&store).push_image("team/a", "v1", &blob(1, 9000)).await.unwrap();
    let (one, two) = (team(&store, 12_000), team(&store, 12_000));
    assert!(usage(&one).await.used_bytes > 9000);
    assert_eq!(usage(&one).await, usage(&two).await);
    exceeded(one.push("team/a", &blob(2, 4000)).await);
    two.push("team/b", &blob(3, 1000)).await.unwrap();
    assert!(usage(&one).await.used_bytes > 10_000);
}

#[tokio::test]
async fn of_many_at_once_no_more_get_in_than_there_is_room_for() {
    let store = memory();
    let registry = team(&store, 10_000);
    let blobs: Vec<Bytes> = (0..20).map(|number| blob(number, 1000)).collect();
    let pushed = futures::future::join_all(blobs.iter().map(|bytes| registry.push("team/a", bytes))).await;
    assert_eq!(pushed.iter().filter(|result| result.is_ok()).count(), 10);
    assert_eq!(usage(&registry).await.used_bytes, 10_000);
}

#[tokio::test]
async fn what_a_store_that_fails_has_not_taken_leaves_its_room_to_the_next_try() {
    for fault in [Fault::Fails, Fault::LosesReply] {
        for skip in 0.. {
            assert!(skip < 500, "it never ends");
            let (store, registry) = faulty(rules());
            let registry = registry.with_quotas(vec![quota("team", Some(20_000), Some(2))]);
            let first = registry.push_image("team/a", "v1", &blob(1, 9000)).await;
            first.unwrap();
            store.arm(None, skip, fault);
            let _ = registry.push_image("team/a", "v2", &blob(2, 9000)).await;
            let happened = store.disarm();
            // It fills the quota, so nothing may be counted twice.
            registry.push_image("team/a", "v2", &blob(2, 9000)).await.unwrap();
            exceeded(registry.push_image("team/b", "v3", &blob(2, 9000)).await);
            let used = usage(&registry).await;
            assert!((18_000..20_000).contains(&used.used_bytes) && used.used_tags == 2, "{used:?}");
            if !happened {
                assert!(skip > 0, "it makes no calls");
                break;
            }
        }
    }
}

#[tokio::test]
async fn files_that_are_to_become_images_are_under_no_quota() {
    let registry = limited(&memory(), vec![quota("", Some(0), Some(0))]);
    exceeded(registry.push("team/a", &blob(1, 1000)).await);
    registry.push(&format!("uploads/{}", Uuid::new_v4()), &blob(1, 1000)).await.unwrap();
    assert_eq!(usage(&registry).await.used_bytes, 0);
}

#[tokio::test]
async fn a_damaged_record_stops_nobody() {
    let store = memory();
    let digest = registry(&store).push("team/a", &blob(1, 1000)).await.unwrap();
    let member = objects(&store, "repositories/team/a/_blobs").await;
    store.put(&member[0], Bytes::from_static(b"garbage"), Condition::None).await.unwrap();
    let registry = team(&store, 3000);
    registry.push("team/b", &blob(2, 2000)).await.unwrap();
    assert_eq!(usage(&registry).await.used_bytes, 3000, "the blob says how large it is");
    exceeded(registry.push("team/a", &blob(1, 1000)).await);
    registry.mount(&name("team/a"), &digest, None).await.unwrap();
    assert_eq!(registry.pull("team/a", &digest).await.unwrap(), blob(1, 1000));
}

#[tokio::test]
async fn a_count_goes_on_when_whoever_waits_for_it_goes_away() {
    let store = memory();
    registry(&store).push("team/a", &blob(1, 1000)).await.unwrap();
    let slow = Dawdling::new(Arc::clone(&store), 1, Duration::from_millis(20));
    let registry = team(&(Arc::new(slow) as Arc<dyn Store>), 3000);
    while registry.quotas().known().is_empty() {
        let bytes = blob(2, 1000);
        let push = registry.push("team/a", &bytes);
        let _ = tokio::time::timeout(Duration::from_millis(1), push).await;
    }
    assert!(registry.quotas().known()[0].used_bytes >= 1000);
}

#[tokio::test]
async fn an_upload_that_goes_on_counts_what_it_has() {
    let store = memory();
    let registry = team(&store, 10_000);
    let (id, bytes) = (registry.begin("team/a").await, blob(1, 12_000));
    registry.append_bytes("team/a", id, 0, &bytes.slice(..8000)).await.unwrap();
    let mut rest = body(&bytes.slice(8000..));
    exceeded(registry.append(&name("team/a"), id, at(8000), &mut rest).await);
    let mut rest = body(&bytes.slice(8000..));
    let finished = registry.finish_upload(&name("team/a"), id, at(8000), &mut rest, &sha256(&bytes)).await;
    exceeded(finished);
}

#[tokio::test]
async fn what_a_repository_has_may_be_pushed_to_it_again_when_there_is_no_room() {
    let store = memory();
    let registry = team(&store, 10_000);
    let bytes = blob(1, 8000);
    let id = registry.begin("team/a").await;
    registry.append_bytes("team/a", id, 0, &bytes).await.unwrap();
    registry.push("team/a", &bytes).await.unwrap();
    registry.finish("team/a", id, &sha256(&bytes)).await.unwrap();
    let announced = Append { start: None, length: Some(8000) };
    registry.push_blob(&name("team/a"), announced, &mut body(&bytes), &sha256(&bytes)).await.unwrap();
    let endless = Append { start: None, length: None };
    let longer =
        registry.push_blob(&name("team/a"), endless, &mut body(&blob(2, 20_000)), &sha256(&bytes)).await;
    assert!(matches!(longer, Err(Error::BodyRefused { .. })), "{longer:?}");
    assert_eq!(usage(&registry).await.used_bytes, 8000);
}
