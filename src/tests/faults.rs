//! The store fails at each call of an operation in turn, before or after it took effect. The client sees an error or
//! a success, may try again, and what was acknowledged is there and right.

use dvcr::registry::{Error, Registry, Result, Rules, SessionId};
use storage_backends::fault::Fault;

use super::registry_under_test::{Client, chunked_rules, faulty, name, rules, sample, sha256};

/// Runs `operation` with a fault at its first call to the store, its second, and so on, until it needs no more
/// calls. After each, repeats it without faults and lets `check` look at the result.
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
            let acknowledged = operation(&registry).await;
            let happened = faulty.disarm();
            if acknowledged {
                check(&registry).await;
            }
            assert!(operation(&registry).await, "{fault:?} at call {skip}: repeating it does not help");
            check(&registry).await;
            if !happened {
                assert!(skip > 0, "the operation makes no calls");
                break;
            }
        }
    }
}

/// Each fault, with blobs that are stored as they are and with blobs in chunks.
fn cases() -> [(Fault, Rules); 4] {
    [
        (Fault::Fails, rules()),
        (Fault::LosesReply, rules()),
        (Fault::Fails, chunked_rules()),
        (Fault::LosesReply, chunked_rules()),
    ]
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
            let finished = registry.finish("a", id, &sha256(&bytes)).await;
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
        let _ = registry.cancel_upload(&name("a"), id).await;
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
        for skip in 0..40 {
            let (faulty, registry) = faulty(rules);
            let digest = registry.push_image("a", "v1", &layer).await.unwrap();
            let bytes = registry.manifest(&name("a"), &"v1".parse().unwrap()).await.unwrap().bytes;
            registry.push_manifest(&name("a"), &"v2".parse().unwrap(), &[], None, bytes).await.unwrap();
            faulty.arm(None, skip, fault);
            let first = registry.delete_manifest(&name("a"), &digest).await;
            faulty.disarm();
            if first.is_err() {
                // Whoever repeats a delete takes "unknown" for an answer.
                let second = registry.delete_manifest(&name("a"), &digest).await;
                assert!(matches!(second, Ok(()) | Err(Error::ManifestUnknown { .. })), "{second:?}");
            }
            for tag in ["v1", "v2"] {
                assert!(registry.manifest(&name("a"), &tag.parse().unwrap()).await.is_err(), "{skip}");
            }
            assert!(registry.tags(&name("a"), 10, None).await.unwrap().entries.is_empty());
        }
    }
}
