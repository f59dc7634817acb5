//! Blobs that are stored in another way than they were: whatever happens on the way, they are what they were.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dvcr::registry::{Compacted, Compactor, Form, Registry, Rules, Step};
use futures::TryStreamExt as _;
use storage_backends::fault::Faulty;
use storage_backends::{Key, Store};

use super::registry_under_test::{
    Client, at_each_call, chunked_rules, memory, name, objects, rules, sample, sha256,
};

/// Over one store: a registry that stores blobs whole, and one that stores them in chunks. Old data goes at once.
fn both(store: &Arc<dyn Store>) -> (Registry, Registry) {
    let at_once = |rules| Rules { grace: Duration::ZERO, ..rules };
    let registry = |rules| Registry::with_rules(Arc::clone(store), at_once(rules));
    (registry(rules()), registry(chunked_rules()))
}

/// Collects until nothing is left to collect.
async fn collect(registry: &Registry) {
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let collected = registry.collect(false).await.unwrap();
        if collected.data == Step::default() {
            break;
        }
    }
}

async fn rewrite(registry: &Registry, blob: &Bytes, form: Form) -> dvcr::registry::Result<bool> {
    registry.rewrite(&sha256(blob), form, |_| {}).await
}

async fn make_dense(registry: &Registry, blob: &Bytes) -> dvcr::registry::Result<bool> {
    registry.make_dense(&sha256(blob), None, |_| {}).await
}

#[tokio::test]
async fn a_blob_is_the_same_in_chunks_and_whole_again() {
    let store = memory();
    let (whole, chunks) = both(&store);
    let blob = sample(50_000);
    whole.push_image("a", "v1", &blob).await.unwrap();
    let digest = sha256(&blob);
    let data = objects(&store, "data").await.len();
    assert_eq!(chunks.not_in_form(Form::Chunks, |_| {}).await.unwrap(), [(digest.clone(), 50_000)]);
    assert!(rewrite(&chunks, &blob, Form::Chunks).await.unwrap());
    assert!(!objects(&store, "recipes").await.is_empty());
    for registry in [&whole, &chunks] {
        assert_eq!(registry.pull("a", &digest).await.unwrap(), blob);
    }
    assert!(chunks.not_in_form(Form::Chunks, |_| {}).await.unwrap().is_empty());
    assert!(!rewrite(&chunks, &blob, Form::Chunks).await.unwrap(), "it is so already");
    assert_eq!(chunks.not_in_form(Form::Whole, |_| {}).await.unwrap(), [(digest.clone(), 50_000)]);
    assert!(rewrite(&chunks, &blob, Form::Whole).await.unwrap());
    assert_eq!(chunks.pull("a", &digest).await.unwrap(), blob);
    collect(&chunks).await;
    assert_eq!((objects(&store, "recipes").await.len(), objects(&store, "data").await.len()), (0, data));
    assert_eq!(chunks.pull("a", &digest).await.unwrap(), blob);
}

#[tokio::test]
async fn what_a_blob_was_goes_and_what_it_shares_stays() {
    let store = memory();
    let (whole, chunks) = both(&store);
    let blobs = [sample(50_000), [sample(50_000), sample(100)].concat().into()];
    for (tag, blob) in ["v1", "v2"].iter().zip(&blobs) {
        whole.push_image("a", tag, blob).await.unwrap();
    }
    let before = objects(&store, "data").await.len();
    for blob in &blobs {
        assert!(rewrite(&chunks, blob, Form::Chunks).await.unwrap());
    }
    collect(&chunks).await;
    assert!(objects(&store, "data").await.len() < before);
    assert!(rewrite(&chunks, &blobs[0], Form::Whole).await.unwrap());
    collect(&chunks).await;
    assert_eq!(objects(&store, "recipes").await.len(), 1);
    for blob in &blobs {
        assert_eq!(chunks.pull("a", &sha256(blob)).await.unwrap(), *blob);
    }
}

#[tokio::test]
async fn whoever_is_reading_reads_on() {
    let store = memory();
    let (whole, _) = both(&store);
    let patient = Registry::with_rules(Arc::clone(&store), chunked_rules());
    let blob = sample(50_000);
    let digest = whole.push("a", &blob).await.unwrap();
    let reader = whole.open_blob(&name("a"), &digest).await.unwrap();
    assert!(rewrite(&patient, &blob, Form::Chunks).await.unwrap());
    let pieces: Vec<Bytes> = reader.stream(0..50_000).try_collect().await.unwrap();
    assert_eq!(pieces.concat(), blob);
}

#[tokio::test]
async fn what_is_compressed_or_small_or_gone_stays_as_it_is() {
    let store = memory();
    let (whole, chunks) = both(&store);
    let compressed: Bytes = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &sample(50_000)].concat().into();
    let small = sample(100);
    for blob in [&compressed, &small] {
        whole.push("a", blob).await.unwrap();
        assert!(!rewrite(&chunks, blob, Form::Chunks).await.unwrap());
        assert_eq!(chunks.pull("a", &sha256(blob)).await.unwrap(), *blob);
    }
    assert!(!rewrite(&chunks, &sample(12_345), Form::Chunks).await.unwrap());
}

#[tokio::test]
async fn two_that_rewrite_one_blob_do_not_harm_it() {
    let store = memory();
    let (whole, chunks) = both(&store);
    let (_, others) = both(&store);
    let blob = sample(200_000);
    whole.push("a", &blob).await.unwrap();
    let (one, other) =
        tokio::join!(rewrite(&chunks, &blob, Form::Chunks), rewrite(&others, &blob, Form::Chunks));
    assert!(one.unwrap() | other.unwrap());
    assert_eq!(chunks.pull("a", &sha256(&blob)).await.unwrap(), blob);
}

#[tokio::test]
async fn a_rewrite_survives_a_fault_at_any_call() {
    let blob = sample(20_000);
    for form in [Form::Chunks, Form::Whole] {
        at_each_call(async |fault, skip| {
            let faulty = Arc::new(Faulty::new(memory()));
            let store: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
            let (whole, chunks) = both(&store);
            let first = if form == Form::Chunks { &whole } else { &chunks };
            first.push("a", &blob).await.unwrap();
            faulty.arm(None, skip, fault);
            let _ = rewrite(&chunks, &blob, form).await;
            let happened = faulty.disarm();
            assert_eq!(chunks.pull("a", &sha256(&blob)).await.unwrap(), blob, "{fault:?} at call {skip}");
            rewrite(&chunks, &blob, form).await.unwrap();
            assert!(chunks.not_in_form(form, |_| {}).await.unwrap().is_empty(), "{fault:?} at call {skip}");
            assert_eq!(chunks.pull("a", &sha256(&blob)).await.unwrap(), blob, "{fault:?} at call {skip}");
            happened
        })
        .await;
    }
}

/// Two versions of a disk that have a little in common, of which the first is gone. What is left of it is in packs of its own.
async fn a_version_that_went(chunks: &Registry) -> Bytes {
    let first = random("first", 800_000);
    let second: Bytes = [first.slice(..200_000), random("second", 600_000)].concat().into();
    chunks.push_image("a", "v1", &first).await.unwrap();
    chunks.push_image("a", "v2", &second).await.unwrap();
    chunks.delete_tag(&name("a"), &"v1".parse().unwrap()).await.unwrap();
    chunks.delete_blob(&name("a"), &sha256(&first)).await.unwrap();
    collect(chunks).await;
    second
}

/// Bytes that cannot be compressed, others for each name.
fn random(name: &str, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// What the rest of a version that is gone holds on to: bytes that nothing needs.
async fn held(registry: &Registry) -> u64 {
    registry.stats().await.unwrap().unreferenced_bytes
}

#[tokio::test]
async fn packs_of_which_little_is_needed_go_when_that_was_written_anew() {
    let store = memory();
    let chunks = Registry::with_rules(
        Arc::clone(&store),
        Rules { grace: Duration::ZERO, pack: 1 << 20, ..chunked_rules() },
    );
    let second = a_version_that_went(&chunks).await;
    let digest = sha256(&second);
    let before = held(&chunks).await;
    assert!(before > 400_000, "{before} bytes are held");
    assert_eq!(chunks.in_sparse_packs(|_| {}).await.unwrap(), [(digest.clone(), 800_000)]);
    assert!(make_dense(&chunks, &second).await.unwrap());
    assert!(chunks.in_sparse_packs(|_| {}).await.unwrap().is_empty());
    collect(&chunks).await;
    assert!(held(&chunks).await < 50_000);
    assert_eq!(chunks.pull("a", &digest).await.unwrap(), second);
    // What is pushed next is stored by naming what was written anew.
    let known = chunks.tally().counts().known;
    chunks.push("b", &second).await.unwrap();
    assert!(chunks.tally().counts().known > known);
}

#[tokio::test]
async fn packs_that_are_needed_stay_as_they_are() {
    let store = memory();
    let (_, chunks) = both(&store);
    let first = random("first", 400_000);
    let second: Bytes = [first.slice(..), random("more", 300_000)].concat().into();
    for (tag, blob) in [("v1", &first), ("v2", &second)] {
        chunks.push_image("a", tag, blob).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(chunks.in_sparse_packs(|_| {}).await.unwrap().is_empty());
}

#[tokio::test]
async fn several_blobs_that_need_the_same_of_a_sparse_pack_have_it_once_again() {
    let store = memory();
    let rules = Rules { grace: Duration::ZERO, pack: 1 << 20, ..chunked_rules() };
    let chunks = Registry::with_rules(Arc::clone(&store), rules);
    let second = a_version_that_went(&chunks).await;
    let third: Bytes = [second.slice(..), random("third", 100)].concat().into();
    chunks.push_image("b", "v3", &third).await.unwrap();
    let sparse = chunks.in_sparse_packs(|_| {}).await.unwrap();
    assert_eq!(sparse.len(), 2);
    let stored = chunks.stats().await.unwrap().stored_bytes;
    for (digest, _) in sparse {
        assert!(chunks.make_dense(&digest, None, |_| {}).await.unwrap());
    }
    collect(&chunks).await;
    let (stats, few) = (chunks.stats().await.unwrap(), 60_000);
    assert!(stats.stored_bytes < stored + few, "{} after {stored}", stats.stored_bytes);
    assert!(stats.unreferenced_bytes < few);
    for (repository, blob) in [("a", &second), ("b", &third)] {
        assert_eq!(chunks.pull(repository, &sha256(blob)).await.unwrap(), *blob);
    }
}

#[tokio::test]
async fn only_what_moves_is_written_by_whoever_knows_nothing_of_the_rest() {
    let store = memory();
    let rules = Rules { grace: Duration::ZERO, pack: 1 << 20, ..chunked_rules() };
    let second = a_version_that_went(&Registry::with_rules(Arc::clone(&store), rules)).await;
    // It has no index, as after a restart.
    let chunks = Registry::with_rules(Arc::clone(&store), rules);
    assert_eq!(chunks.in_sparse_packs(|_| {}).await.unwrap().len(), 1);
    let before = bytes_stored(&store).await;
    assert!(make_dense(&chunks, &second).await.unwrap());
    let written = bytes_stored(&store).await - before;
    assert!((100_000..220_000).contains(&written), "{written} bytes were written for 200,000 that move");
    collect(&chunks).await;
    assert!(held(&chunks).await < 50_000);
    assert_eq!(chunks.pull("a", &sha256(&second)).await.unwrap(), second);
    assert!(!make_dense(&chunks, &second).await.unwrap(), "there is nothing left to move");
}

async fn bytes_stored(store: &Arc<dyn Store>) -> u64 {
    let entries = store.list(&Key::parse("data").unwrap(), None);
    entries.map_ok(|entry| entry.size).try_fold(0, async |sum, size| Ok(sum + size)).await.unwrap()
}

#[tokio::test]
async fn copying_out_of_packs_survives_a_fault_at_any_call() {
    at_each_call(async |fault, skip| {
        let faulty = Arc::new(Faulty::new(memory()));
        let store: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
        // What a record may come to refer to stays for as long as an upload may be left alone.
        let abandoned = Duration::from_millis(1);
        let rules = Rules { grace: Duration::ZERO, abandoned, pack: 1 << 20, ..chunked_rules() };
        let chunks = Registry::with_rules(Arc::clone(&store), rules);
        let second = a_version_that_went(&chunks).await;
        faulty.arm(None, skip, fault);
        let found = chunks.in_sparse_packs(|_| {}).await;
        if found.is_ok() {
            let _ = make_dense(&chunks, &second).await;
        }
        let happened = faulty.disarm();
        assert_eq!(chunks.pull("a", &sha256(&second)).await.unwrap(), second, "{fault:?} at call {skip}");
        for (digest, _) in chunks.in_sparse_packs(|_| {}).await.unwrap() {
            chunks.make_dense(&digest, None, |_| {}).await.unwrap();
        }
        collect(&chunks).await;
        assert!(held(&chunks).await < 50_000, "{fault:?} at call {skip}");
        assert_eq!(chunks.pull("a", &sha256(&second)).await.unwrap(), second, "{fault:?} at call {skip}");
        happened
    })
    .await;
}

#[tokio::test]
async fn a_compaction_is_due_when_its_interval_is_over() {
    let store = memory();
    let rules = Rules { grace: Duration::ZERO, pack: 1 << 20, ..chunked_rules() };
    let chunks = Arc::new(Registry::with_rules(Arc::clone(&store), rules));
    let second = a_version_that_went(&chunks).await;
    let mut compactor = Compactor::new(Arc::clone(&chunks));
    let hour = Duration::from_hours(1);
    assert_eq!(
        compactor.compact_when_due(Duration::ZERO, None).await.unwrap(),
        None,
        "nobody knows when it was"
    );
    assert_eq!(compactor.compact_when_due(hour, None).await.unwrap(), None);
    let compacted = compactor.compact_when_due(Duration::ZERO, None).await.unwrap().unwrap();
    assert_eq!((compacted.rewritten.count, compacted.failed), (1, 0));
    assert_eq!(compactor.compact_when_due(hour, None).await.unwrap(), None);
    let again = compactor.compact_when_due(Duration::ZERO, None).await.unwrap().unwrap();
    assert_eq!(again, Compacted::default());
    assert_eq!(chunks.pull("a", &sha256(&second)).await.unwrap(), second);
}
