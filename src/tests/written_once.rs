//! Data is written once and never copied or read again, on either kind of backend.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dvcr::oci::{Algorithm, Digest};
use dvcr::registry::{Append, Registry, Rules};
use storage_backends::count::Counting;
use storage_backends::{Filesystem, Memory, MemoryOptions, Store};

use super::registry_under_test::{Client, body, name, sample, sha256};

const SIZE: usize = 8 << 20;

/// Runs `push` against both backends and checks what it cost.
async fn costs(push: impl AsyncFn(&Registry)) {
    let folder = tempfile::tempdir().unwrap();
    let backends: [Arc<dyn Store>; 2] = [
        Arc::new(Filesystem::open(folder.path()).await.unwrap()),
        Arc::new(Memory::empty(MemoryOptions::default())),
    ];
    for inner in backends {
        let backend = inner.capabilities().backend;
        let counting = Counting::new(inner);
        let tally = counting.tally();
        let whole = Rules { chunk_from: None, ..Rules::default() };
        push(&Registry::with_rules(Arc::new(counting), whole)).await;
        assert_eq!(tally.data_written.load(Relaxed), SIZE as u64, "{backend}: data is written 1.0 times");
        assert_eq!(tally.data_read.load(Relaxed), 0, "{backend}: data is not read");
        let small = tally.small_written.load(Relaxed);
        assert!(small < SIZE as u64 / 500, "{backend}: {small} bytes of records");
    }
}

#[tokio::test]
async fn a_blob_in_chunks_is_written_once_at_most_and_only_the_list_of_them_is_read_again() {
    let counting = Counting::new(Arc::new(Memory::empty(MemoryOptions::default())));
    let tally = counting.tally();
    Registry::new(Arc::new(counting)).push("a", &sample(SIZE)).await.unwrap();
    assert!(tally.data_written.load(Relaxed) <= SIZE as u64);
    assert!(tally.data_read.load(Relaxed) < SIZE as u64 / 1000);
    assert!(tally.small_written.load(Relaxed) < SIZE as u64 / 500);
}

#[tokio::test]
async fn a_streamed_push_writes_its_bytes_once_and_reads_none() {
    costs(async |registry| {
        let bytes = sample(SIZE);
        let id = registry.begin("a").await;
        registry.append_bytes("a", id, 0, &bytes).await.unwrap();
        registry.finish("a", id, &sha256(&bytes)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_push_in_one_request_writes_its_bytes_once_and_reads_none() {
    costs(async |registry| {
        registry.push("a", &sample(SIZE)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_chunked_push_writes_its_bytes_once_and_reads_none() {
    costs(async |registry| {
        let bytes = sample(SIZE);
        let id = registry.begin("a").await;
        for start in (0..SIZE).step_by(1 << 20) {
            let chunk = bytes.slice(start..start + (1 << 20));
            registry.append_bytes("a", id, start as u64, &chunk).await.unwrap();
        }
        registry.finish("a", id, &sha256(&bytes)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_announced_sha512_push_writes_its_bytes_once_and_reads_none() {
    costs(async |registry| {
        let bytes = sample(SIZE);
        let digest = Digest::of(Algorithm::Sha512, &bytes);
        let id = registry.begin_upload(&name("a"), Algorithm::Sha512).await.unwrap().id;
        registry.append_bytes("a", id, 0, &bytes).await.unwrap();
        registry
            .finish_upload(&name("a"), id, Append::default(), &mut body(&bytes.slice(..0)), &digest)
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn mounting_and_pushing_again_write_no_data_that_stays() {
    costs(async |registry| {
        let digest = registry.push("a", &sample(SIZE)).await.unwrap();
        assert!(registry.mount(&name("b"), &digest, Some(&name("a"))).await.unwrap());
        assert!(registry.mount(&name("c"), &digest, None).await.unwrap());
    })
    .await;
}
