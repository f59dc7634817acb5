//! The store fails at each call of an operation in turn, before or after it took effect. The client sees an error or
//! a success, may try again, and what was acknowledged is there and right.

use std::sync::Arc;
use std::time::Duration;

use dvcr::oci::Digest;
use dvcr::registry::{Error, Registry, Result, Rules, SessionId};
use futures::TryStreamExt as _;
use storage_backends::fault::{Fault, Faulty};
use storage_backends::{Key, Store};

use super::registry_under_test::{Client, chunked_rules, faulty, is_tombstone, name, rules, sample, sha256};

/// Runs `operation` with a fault at its first call to the store, its second, and so on, until it needs no more
/// calls. After each, repeats it without faults, lets `check` look at the result, and deletes everything: nothing stays.
async fn at_every_call(
    prepare: impl AsyncFn(&Registry),
    operation: impl AsyncFn(&Registry) -> bool,
    check: impl AsyncFn(&Registry),
) {
    for (fault, rules) in cases() {
        for skip in 0.. {
            assert!(skip < 500, "the operation never ends");
            let (faulty, registry) = faulty(rules);
            prepare(&registry).await;
            faulty.arm(None, skip, fault);
            // Whoever waits gives up in the end.
            let acknowledged = tokio::time::timeout(PATIENCE, operation(&registry)).await.unwrap_or(false);
            let happened = faulty.disarm();
            if acknowledged {
                check(&registry).await;
            }
            let repeated = in_the_end(async || operation(&registry).await).await;
            assert!(repeated, "{fault:?} at call {skip}: repeating it does not help");
            check(&registry).await;
            assert_eq!(left(&faulty, rules).await, Vec::<Key>::new(), "{fault:?} at call {skip}");
            if !happened {
                assert!(skip > 0, "the operation makes no calls");
                break;
            }
        }
    }
}

/// Whoever waits for a call that stalls gives up before it fails; nothing else here takes as long.
const PATIENCE: Duration = Duration::from_millis(100);

/// Repeats what may meet the end of a call that stalled, until it succeeds.
async fn in_the_end(operation: impl AsyncFn() -> bool) -> bool {
    for _ in 0..4 {
        if operation().await {
            return true;
        }
        tokio::time::sleep(Fault::STALL / 2).await;
    }
    false
}

/// Each fault, with blobs that are stored as they are and with blobs in chunks.
fn cases() -> impl Iterator<Item = (Fault, Rules)> {
    Fault::ALL.into_iter().flat_map(|fault| [(fault, rules()), (fault, chunked_rules())])
}

/// What is stored when all manifests were deleted and everything was collected.
async fn left(store: &Arc<Faulty>, rules: Rules) -> Vec<Key> {
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(store);
    let registry = Registry::with_rules(
        Arc::clone(&store),
        Rules { grace: Duration::ZERO, abandoned: Duration::ZERO, ..rules },
    );
    let listed = async |folder: &str| -> Vec<Key> {
        let entries = store.list(&Key::parse(folder).unwrap(), None);
        let full = entries.try_filter(|entry| std::future::ready(!is_tombstone(entry.size)));
        full.map_ok(|entry| entry.key).try_collect().await.unwrap()
    };
    for key in listed("repositories").await {
        if let Some((repository, manifest)) =
            key.as_str().strip_prefix("repositories/").unwrap().split_once("/_manifests/")
        {
            let digest = manifest.replacen('/', ":", 1).parse().unwrap();
            registry.delete_manifest(&name(repository), &digest).await.unwrap();
        }
    }
    let mut left = Vec::new();
    for _ in 0..10 {
        // What is condemned in one millisecond goes in another.
        tokio::time::sleep(Duration::from_millis(2)).await;
        registry.collect(false).await.unwrap();
        left.clear();
        for folder in ["data", "recipes", "uploads", "index", "blobs", "repositories"] {
            left.extend(listed(folder).await);
        }
        if left.is_empty() {
            break;
        }
    }
    left
}

async fn nothing(_: &Registry) {}

#[tokio::test]
async fn a_push_in_one_request_survives_a_fault_at_any_call() {
    let bytes = sample(20_000);
    at_every_call(
        nothing,
        async |registry| registry.push("a", &bytes).await.is_ok(),
        async |registry| assert_eq!(registry.pull("a", &sha256(&bytes)).await.unwrap(), bytes),
    )
    .await;
}

#[tokio::test]
async fn a_chunked_push_survives_a_fault_at_any_call() {
    let bytes = sample(20_000);
    // The client does what the spec tells it to: ask where the session stands, go on from there, begin again when it
    // is gone.
    let push = async |registry: &Registry| {
        let Ok(upload) = registry.begin_upload(&name("a"), dvcr::oci::Algorithm::Sha256).await else {
            return false;
        };
        for attempt in 0.. {
            let Ok(status) = registry.upload_status(&name("a"), upload.id).await else { return false };
            let start = usize::try_from(status.length).unwrap();
            if start == bytes.len() || attempt > 8 {
                break;
            }
            let chunk = bytes.slice(start..bytes.len().min(start + 7_000));
            let _ = registry.append_bytes("a", upload.id, status.length, &chunk).await;
        }
        registry.finish("a", upload.id, &sha256(&bytes)).await.is_ok()
    };
    at_every_call(nothing, push, async |registry| {
        assert_eq!(registry.pull("a", &sha256(&bytes)).await.unwrap(), bytes);
    })
    .await;
}

/// Finishes an upload with a fault at each call, lets the client do `then`, and expects that whoever pushes the same
/// bytes afterwards can rely on what is in the registry.
async fn after_a_faulty_finish(then: impl AsyncFn(&Registry, SessionId, Result<()>)) {
    let bytes = sample(20_000);
    for (fault, rules) in cases() {
        for skip in 0..40 {
            let (faulty, registry) = faulty(rules);
            let id = registry.begin("a").await;
            registry.append_bytes("a", id, 0, &bytes).await.unwrap();
            faulty.arm(None, skip, fault);
            let digest = sha256(&bytes);
            let finish = tokio::time::timeout(PATIENCE, registry.finish("a", id, &digest));
            let finished = finish.await.unwrap_or(Err(Error::Full));
            faulty.disarm();
            then(&registry, id, finished).await;
            registry.push("b", &bytes).await.unwrap();
            assert_eq!(registry.pull("b", &sha256(&bytes)).await.unwrap(), bytes, "{fault:?} at {skip}");
        }
    }
}

#[tokio::test]
async fn finishing_twice_after_a_fault_gives_the_blob() {
    let bytes = sample(20_000);
    after_a_faulty_finish(async |registry, id, first| {
        // A session that is gone was either finished or has to be pushed again; never half of it.
        let second = registry.finish("a", id, &sha256(&bytes)).await;
        if first.is_ok() || second.is_ok() {
            assert_eq!(registry.pull("a", &sha256(&bytes)).await.unwrap(), bytes);
        }
    })
    .await;
}

#[tokio::test]
async fn cancelling_after_a_faulty_finish_never_takes_a_published_blob_away() {
    after_a_faulty_finish(async |registry, id, _| {
        if registry.cancel_upload(&name("a"), id).await.is_ok() {
            let status = registry.upload_status(&name("a"), id).await;
            assert!(matches!(status, Err(Error::SessionUnknown { .. })), "it was cancelled: {status:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_image_push_survives_a_fault_at_any_call() {
    let layer = sample(9_000);
    at_every_call(
        nothing,
        async |registry| registry.push_image("a", "v1", &layer).await.is_ok(),
        async |registry| {
            let manifest = registry.manifest(&name("a"), &"v1".parse().unwrap()).await.unwrap();
            let listed = registry.tags(&name("a"), 10, None).await.unwrap();
            assert_eq!(listed.entries.len(), 1);
            assert_eq!(sha256(&manifest.bytes), manifest.digest);
        },
    )
    .await;
}

#[tokio::test]
async fn a_delete_survives_a_fault_at_any_call() {
    let layer = sample(9_000);
    for (fault, rules) in cases() {
        for skip in 0.. {
            assert!(skip < 500, "it never ends");
            let (faulty, registry) = faulty(rules);
            let digest = registry.push_image("a", "v1", &layer).await.unwrap();
            let bytes = registry.manifest(&name("a"), &"v1".parse().unwrap()).await.unwrap().bytes;
            registry.push_manifest(&name("a"), &"v2".parse().unwrap(), &[], None, bytes).await.unwrap();
            faulty.arm(None, skip, fault);
            let repository = name("a");
            let delete = registry.delete_manifest(&repository, &digest);
            let first = tokio::time::timeout(PATIENCE, delete).await;
            let happened = faulty.disarm();
            if !matches!(first, Ok(Ok(()))) {
                // Whoever repeats a delete takes "unknown" for an answer.
                let second = registry.delete_manifest(&name("a"), &digest).await;
                assert!(matches!(second, Ok(()) | Err(Error::ManifestUnknown { .. })), "{second:?}");
            }
            for tag in ["v1", "v2"] {
                assert!(registry.manifest(&name("a"), &tag.parse().unwrap()).await.is_err(), "{skip}");
            }
            assert!(registry.tags(&name("a"), 10, None).await.unwrap().entries.is_empty());
            if !happened {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_pull_is_right_or_fails_with_a_fault_at_any_call() {
    let bytes = sample(20_000);
    for (fault, rules) in cases() {
        for skip in 0.. {
            let (faulty, registry) = faulty(rules);
            let digest = registry.push("a", &bytes).await.unwrap();
            faulty.arm(None, skip, fault);
            let pulled = tokio::time::timeout(PATIENCE, registry.pull("a", &digest)).await;
            let happened = faulty.disarm();
            if let Ok(Ok(pulled)) = pulled {
                assert_eq!(pulled, bytes, "{fault:?} at call {skip}");
            }
            let again = async || registry.pull("a", &digest).await.is_ok_and(|pulled| pulled == bytes);
            assert!(in_the_end(again).await, "{fault:?} at call {skip}");
            if !happened {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_mount_survives_a_fault_at_any_call() {
    let bytes = sample(20_000);
    at_every_call(
        async |registry| drop(registry.push("a", &bytes).await.unwrap()),
        async |registry| {
            let mounted = registry.mount(&name("b"), &sha256(&bytes), Some(&name("a"))).await;
            assert!(!matches!(mounted, Ok(false)), "it is there");
            mounted.is_ok()
        },
        async |registry| assert_eq!(registry.pull("b", &sha256(&bytes)).await.unwrap(), bytes),
    )
    .await;
}

/// What the tag `v1` of repository `a` points to.
async fn tagged(registry: &Registry) -> Digest {
    registry.manifest(&name("a"), &"v1".parse().unwrap()).await.unwrap().digest
}

#[tokio::test]
async fn a_tag_that_is_moved_points_somewhere_with_a_fault_at_any_call() {
    let (old, new) = (sample(9_000), sample(10_000));
    at_every_call(
        async |registry| {
            registry.push_image("a", "v2", &new).await.unwrap();
            registry.push_image("a", "v1", &old).await.unwrap();
        },
        async |registry| {
            let wanted = registry.manifest(&name("a"), &"v2".parse().unwrap()).await;
            let Ok(wanted) = wanted else { return false };
            let tag = "v1".parse().unwrap();
            registry.push_manifest(&name("a"), &tag, &[], None, wanted.bytes).await.is_ok()
        },
        async |registry| {
            let wanted = registry.manifest(&name("a"), &"v2".parse().unwrap()).await.unwrap();
            assert_eq!(tagged(registry).await, wanted.digest);
        },
    )
    .await;
}

#[tokio::test]
async fn a_tag_that_is_being_deleted_is_there_whole_or_not_with_a_fault_at_any_call() {
    let layer = sample(9_000);
    at_every_call(
        async |registry| drop(registry.push_image("a", "v1", &layer).await.unwrap()),
        async |registry| {
            let deleted = registry.delete_tag(&name("a"), &"v1".parse().unwrap()).await;
            // Whoever repeats a delete takes "unknown" for an answer.
            matches!(deleted, Ok(()) | Err(Error::ManifestUnknown { .. }))
        },
        async |registry| {
            assert!(registry.manifest(&name("a"), &"v1".parse().unwrap()).await.is_err());
            assert!(registry.tags(&name("a"), 10, None).await.unwrap().entries.is_empty());
        },
    )
    .await;
}

#[tokio::test]
async fn a_blob_that_is_deleted_stays_deleted_with_a_fault_at_any_call() {
    let bytes = sample(20_000);
    at_every_call(
        async |registry| drop(registry.push("a", &bytes).await.unwrap()),
        async |registry| {
            let deleted = registry.delete_blob(&name("a"), &sha256(&bytes)).await;
            matches!(deleted, Ok(()) | Err(Error::BlobUnknown { .. }))
        },
        async |registry| assert!(registry.pull("a", &sha256(&bytes)).await.is_err()),
    )
    .await;
}
