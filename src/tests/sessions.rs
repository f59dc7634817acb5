//! Upload sessions: they survive, they move between replicas, and nobody's bytes get mixed up.

use std::sync::Arc;

use bytes::Bytes;
use dvcr::oci::{Algorithm, Digest};
use dvcr::registry::{Append, Error};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use storage_backends::{Filesystem, Key, Store};

use super::registry_under_test::{Client, at, body, broken_body, memory, name, registry, sample, sha256};

async fn data_objects(store: &Arc<dyn Store>) -> usize {
    store.list(&Key::parse("data").unwrap(), None).try_collect::<Vec<_>>().await.unwrap().len()
}

#[tokio::test]
async fn two_replicas_take_turns_in_one_upload() {
    let store = memory();
    let replicas = [registry(&store), registry(&store)];
    let bytes = sample(50_000);
    let id = replicas[0].begin("a").await;
    for (i, start) in (0..50_000).step_by(1_250).enumerate() {
        let chunk = bytes.slice(start..start + 1_250);
        let length = replicas[i % 2].append_bytes("a", id, start as u64, &chunk).await.unwrap();
        assert_eq!(length, start as u64 + 1_250);
    }
    replicas[0].finish("a", id, &sha256(&bytes)).await.unwrap();
    assert_eq!(replicas[1].pull("a", &sha256(&bytes)).await.unwrap(), bytes);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = async || {
        let store: Arc<dyn Store> = Arc::new(Filesystem::open(folder.path()).await.unwrap());
        registry(&store)
    };
    let bytes = sample(30_000);
    let id = {
        let registry = open().await;
        let id = registry.begin("a").await;
        registry.append_bytes("a", id, 0, &bytes.slice(..10_000)).await.unwrap();
        id
    };
    let registry = open().await;
    assert_eq!(registry.upload_status(&name("a"), id).await.unwrap().length, 10_000);
    registry.append_bytes("a", id, 10_000, &bytes.slice(10_000..)).await.unwrap();
    registry.finish("a", id, &sha256(&bytes)).await.unwrap();
    assert_eq!(registry.pull("a", &sha256(&bytes)).await.unwrap(), bytes);
}

#[tokio::test]
async fn more_than_ten_thousand_chunks_make_one_blob() {
    let store = memory();
    let registry = registry(&store);
    let bytes = sample(10_500 * 3);
    let id = registry.begin("a").await;
    for start in (0..bytes.len()).step_by(3) {
        registry.append_bytes("a", id, start as u64, &bytes.slice(start..start + 3)).await.unwrap();
    }
    registry.finish("a", id, &sha256(&bytes)).await.unwrap();
    assert_eq!(registry.pull("a", &sha256(&bytes)).await.unwrap(), bytes);
    let uploads: Vec<_> = store.list(&Key::parse("uploads").unwrap(), None).try_collect().await.unwrap();
    assert!(uploads.is_empty(), "{uploads:?}");
}

#[tokio::test]
async fn a_blob_larger_than_a_data_object_goes_on_in_the_next() {
    let store = memory();
    let registry = registry(&store);
    let bytes = sample(100_000);
    let digest = registry.push("a", &bytes).await.unwrap();
    assert_eq!(data_objects(&store).await, 100_000_usize.div_ceil(8 << 10));
    assert_eq!(registry.pull("a", &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn what_came_before_a_broken_connection_is_kept() {
    let store = memory();
    let registry = registry(&store);
    let bytes = sample(9_000);
    let id = registry.begin("a").await;
    let cut = registry.append(&name("a"), id, at(0), &mut broken_body(&bytes.slice(..5_000))).await;
    assert!(matches!(cut, Err(Error::BodyInterrupted)), "{cut:?}");
    assert_eq!(registry.upload_status(&name("a"), id).await.unwrap().length, 5_000);
    let rest = &mut body(&bytes.slice(5_000..));
    registry.finish_upload(&name("a"), id, at(5_000), rest, &sha256(&bytes)).await.unwrap();
    assert_eq!(registry.pull("a", &sha256(&bytes)).await.unwrap(), bytes);
}

/// A request that is dropped is what a crash of the process looks like to the store.
#[tokio::test]
async fn a_crash_in_the_middle_of_a_request_costs_only_what_came_after_the_last_checkpoint() {
    let store = memory();
    let bytes = sample(20_000);
    let id = {
        let crashing = registry(&store);
        let id = crashing.begin("a").await;
        // The first 11,000 bytes come, in one batch each, and then nothing.
        let head: Vec<_> = [bytes.slice(..11_000)].map(Ok).into();
        let mut endless = stream::iter(head).chain(stream::pending()).boxed();
        let repository = name("a");
        let request = crashing.append(&repository, id, at(0), &mut endless);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), request).await.is_err());
        id
    };
    let replica = registry(&store);
    let kept = replica.upload_status(&name("a"), id).await.unwrap().length;
    let kept_bytes = usize::try_from(kept).unwrap();
    assert_eq!(kept % (4 << 10), 0, "only checkpoints are safe");
    replica.append_bytes("a", id, kept, &bytes.slice(kept_bytes..)).await.unwrap();
    replica.finish("a", id, &sha256(&bytes)).await.unwrap();
    assert_eq!(replica.pull("a", &sha256(&bytes)).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_chunk_that_is_not_the_next_one_changes_nothing() {
    let store = memory();
    let registry = registry(&store);
    let id = registry.begin("a").await;
    registry.append_bytes("a", id, 0, &sample(2_000)).await.unwrap();
    for start in [0, 1_999, 2_001] {
        let refused = registry.append_bytes("a", id, start, &sample(100)).await;
        assert!(matches!(refused, Err(Error::OutOfOrder { length: 2_000, .. })), "{refused:?}");
    }
    registry.finish("a", id, &sha256(&sample(2_000))).await.unwrap();
}

#[tokio::test]
async fn replicas_that_add_the_same_chunk_at_once_add_it_once() {
    let store = memory();
    let replicas = [registry(&store), registry(&store), registry(&store)];
    let bytes = sample(6_000);
    let id = replicas[0].begin("a").await;
    for start in [0u64, 2_000, 4_000] {
        let chunk = bytes.slice(usize::try_from(start).unwrap()..usize::try_from(start).unwrap() + 2_000);
        let attempts =
            join_all(replicas.iter().map(|replica| replica.append_bytes("a", id, start, &chunk))).await;
        assert_eq!(attempts.iter().filter(|attempt| attempt.is_ok()).count(), 1, "{attempts:?}");
    }
    replicas[2].finish("a", id, &sha256(&bytes)).await.unwrap();
    assert_eq!(replicas[1].pull("a", &sha256(&bytes)).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_cancelled_session_leaves_no_key_behind() {
    let store = memory();
    let registry = registry(&store);
    let id = registry.begin("a").await;
    registry.append_bytes("a", id, 0, &sample(9_000)).await.unwrap();
    registry.cancel_upload(&name("a"), id).await.unwrap();
    assert_eq!(data_objects(&store).await, 0);
    let gone = registry.upload_status(&name("a"), id).await;
    assert!(matches!(gone, Err(Error::SessionUnknown { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_session_belongs_to_its_repository() {
    let store = memory();
    let registry = registry(&store);
    let id = registry.begin("a").await;
    let elsewhere = registry.append_bytes("b", id, 0, &sample(10)).await;
    assert!(matches!(elsewhere, Err(Error::SessionUnknown { .. })), "{elsewhere:?}");
}

#[tokio::test]
async fn finish_rejects_a_digest_that_does_not_match_and_keeps_nothing() {
    let store = memory();
    let registry = registry(&store);
    let id = registry.begin("a").await;
    registry.append_bytes("a", id, 0, &sample(9_000)).await.unwrap();
    let wrong = sha256(b"something else");
    let refused = registry.finish("a", id, &wrong).await;
    assert!(matches!(refused, Err(Error::DigestMismatch { .. })), "{refused:?}");
    assert_eq!(data_objects(&store).await, 0);
}

/// The same bytes under two names, on two replicas, where one name is taken already: the loser must not
/// free what the winner has published.
#[tokio::test]
async fn closing_one_session_under_two_digests_at_once_loses_no_blob() {
    for _ in 0..50 {
        let store = memory();
        let replicas = [registry(&store), registry(&store)];
        let bytes = sample(9_000);
        let sha512 = Digest::of(Algorithm::Sha512, &bytes);
        let existing = &mut body(&bytes);
        replicas[0].push_blob(&name("b"), Append::default(), existing, &sha512).await.unwrap();
        let id = replicas[0].begin("a").await;
        replicas[0].append_bytes("a", id, 0, &bytes).await.unwrap();
        let digests = [sha256(&bytes), sha512];
        let finished =
            join_all(replicas.iter().zip(&digests).map(|(replica, digest)| replica.finish("a", id, digest)))
                .await;
        for (digest, finished) in digests.iter().zip(finished) {
            if finished.is_ok() {
                assert_eq!(replicas[0].pull("a", digest).await.unwrap(), bytes);
            }
        }
        assert_eq!(replicas[1].pull("b", &digests[1]).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn cancelling_while_another_replica_finishes_loses_no_blob() {
    for _ in 0..50 {
        let store = memory();
        let replicas = [registry(&store), registry(&store)];
        let bytes = sample(9_000);
        let id = replicas[0].begin("a").await;
        replicas[0].append_bytes("a", id, 0, &bytes).await.unwrap();
        let (digest, repository) = (sha256(&bytes), name("a"));
        let (finished, _) =
            tokio::join!(replicas[0].finish("a", id, &digest), replicas[1].cancel_upload(&repository, id));
        if finished.is_ok() {
            assert_eq!(replicas[1].pull("a", &digest).await.unwrap(), bytes);
        }
        // What is in the registry can be relied on by the next push of the same bytes.
        replicas[1].push("c", &bytes).await.unwrap();
        assert_eq!(replicas[0].pull("c", &digest).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn many_pushes_of_one_blob_at_once_store_it_once() {
    let store = memory();
    let replicas: Vec<_> = (0..8).map(|_| registry(&store)).collect();
    let bytes = sample(30_000);
    let pushed = join_all(replicas.iter().map(|replica| replica.push("a", &bytes))).await;
    assert!(pushed.iter().all(Result::is_ok), "{pushed:?}");
    assert_eq!(data_objects(&store).await, 30_000_usize.div_ceil(8 << 10));
    assert_eq!(replicas[0].pull("a", &sha256(&bytes)).await.unwrap(), bytes);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let store = memory();
    let registry = registry(&store);
    let digest = registry.push("a", &Bytes::new()).await.unwrap();
    assert!(registry.pull("a", &digest).await.unwrap().is_empty());
    assert_eq!(registry.blob_size(&name("a"), &digest).await.unwrap(), 0);
}
