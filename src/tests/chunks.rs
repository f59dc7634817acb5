//! Blobs in chunks: what comes back is what went in, whatever else is stored; what is known is not stored again; and what
//! is given up takes nothing along that others need.

use std::sync::Arc;

use bytes::Bytes;
use dvcr::oci::Algorithm;
use dvcr::registry::{Append, Piece, Registry, Rules, Staging, Total};
use futures::TryStreamExt as _;
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;
use storage_backends::count::Counting;
use storage_backends::{Filesystem, Key, Store};
use uuid::Uuid;

use super::registry_under_test::{
    Client, at, body, broken_body, chunked, chunked_rules, memory, name, sha256,
};

const BLOCK: usize = 4096;

/// A disk of so many blocks, each different from those with another number, and every tenth of nothing.
fn disk(blocks: std::ops::Range<u32>) -> Vec<u8> {
    let mut disk = Vec::new();
    for number in blocks {
        let mut word = u64::from(number) << 20;
        for _ in 0..BLOCK / 8 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = if number % 10 == 0 { 0 } else { word };
            disk.extend_from_slice(&value.to_le_bytes());
        }
    }
    disk
}

/// Our own layer: one file in a tar.
fn layer(disk: &[u8]) -> Bytes {
    let mut header = tar::Header::new_gnu();
    header.set_path("disk/disk.raw").unwrap();
    header.set_size(disk.len() as u64);
    header.set_cksum();
    let padding = vec![0; disk.len().next_multiple_of(512) - disk.len() + 1024];
    [header.as_bytes().as_slice(), disk, &padding].concat().into()
}

/// Bytes of all objects below a folder, and how many objects there are.
async fn stored(store: &Arc<dyn Store>, folder: &str) -> (u64, usize) {
    let entries: Vec<_> = store.list(&Key::parse(folder).unwrap(), None).try_collect().await.unwrap();
    (entries.iter().map(|entry| entry.size).sum(), entries.len())
}

/// What is kept of the content of blobs: data, and recipes over it.
async fn kept(store: &Arc<dyn Store>) -> [(u64, usize); 2] {
    [stored(store, "data").await, stored(store, "recipes").await]
}

async fn range(registry: &Registry, blob: &Bytes, from: usize, to: usize) -> Vec<u8> {
    let found = registry.open_blob(&name("a"), &sha256(blob)).await.unwrap();
    let pieces: Vec<Bytes> = found.stream(from as u64..to as u64).try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn a_disk_comes_back_whole_and_in_every_range() {
    let registry = chunked(&memory());
    let blob = layer(&disk(1..300));
    registry.push("a", &blob).await.unwrap();
    assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
    for (from, to) in [(0, 1), (511, 513), (0, 0), (100_000, 600_001), (blob.len() - 1, blob.len())] {
        assert!(range(&registry, &blob, from, to).await == blob[from..to], "{from}..{to}");
    }
}

#[tokio::test]
async fn a_version_costs_what_has_changed() {
    let store = memory();
    let registry = chunked(&store);
    let first = layer(&disk(1..2000));
    registry.push("a", &first).await.unwrap();
    let (one, _) = stored(&store, "data").await;
    assert!(one < first.len() as u64, "zeros are not stored");
    // A block in the middle was changed, some were put in near the end, and the header is another one.
    let changed =
        [disk(1..500), disk(9000..9003), disk(503..1800), disk(9500..9520), disk(1800..2000)].concat();
    let second = layer(&changed);
    registry.push("a", &second).await.unwrap();
    let (both, _) = stored(&store, "data").await;
    assert!(both - one < one / 10, "{one} bytes became {both}");
    for blob in [first, second] {
        assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
    }
}

#[tokio::test]
async fn what_is_pushed_again_is_not_stored_again() {
    let store = memory();
    let registry = chunked(&store);
    let blob = layer(&disk(1..300));
    registry.push("a", &blob).await.unwrap();
    let before = kept(&store).await;
    registry.push("b", &blob).await.unwrap();
    assert_eq!(kept(&store).await, before);
    assert!(registry.pull("b", &sha256(&blob)).await.unwrap() == blob);
}

#[tokio::test]
async fn an_uploaded_disk_is_not_stored_again_when_it_becomes_a_layer() {
    let store = memory();
    let rules = Rules { checkpoint: 64 << 20, ..chunked_rules() };
    let registry = Arc::new(Registry::with_rules(Arc::clone(&store), rules));
    let file = Bytes::from(disk(1..1000));
    let length = file.len() as u64;
    let piece = Piece { start: 0, length: Some(length), total: Total::Bytes(length) };
    Staging::new(Arc::clone(&registry)).receive(Uuid::from_u128(1), piece, body(&file)).await.unwrap();
    let (before, _) = stored(&store, "data").await;
    registry.push("a", &layer(&file)).await.unwrap();
    let (after, _) = stored(&store, "data").await;
    assert!(after - before < length / 20, "{} bytes are new", after - before);
}

#[tokio::test]
async fn what_another_replica_or_the_one_before_has_stored_is_known() {
    let store = memory();
    chunked(&store).push("a", &layer(&disk(1..1000))).await.unwrap();
    let (before, _) = stored(&store, "data").await;
    let later = chunked(&store);
    later.learn_chunks().await;
    let second = layer(&disk(1..1010));
    later.push("a", &second).await.unwrap();
    let (after, _) = stored(&store, "data").await;
    assert!(after - before < 400_000, "{before} bytes became {after}");
    assert!(later.pull("a", &sha256(&second)).await.unwrap() == second);
}

#[tokio::test]
async fn without_its_index_everything_can_be_read_and_only_space_is_lost() {
    let store = memory();
    let first = layer(&disk(1..300));
    chunked(&store).push("a", &first).await.unwrap();
    let index: Vec<_> = store.list(&Key::parse("index").unwrap(), None).try_collect().await.unwrap();
    assert!(!index.is_empty());
    for entry in index {
        store.delete(&entry.key).await.unwrap();
    }
    let registry = chunked(&store);
    registry.learn_chunks().await;
    assert!(registry.pull("a", &sha256(&first)).await.unwrap() == first);
    let second = layer(&disk(1..301));
    registry.push("a", &second).await.unwrap();
    assert!(registry.pull("a", &sha256(&second)).await.unwrap() == second);
}

#[tokio::test]
async fn an_upload_in_pieces_goes_on_at_any_replica_and_finds_what_is_known() {
    let store = memory();
    let replicas = [chunked(&store), chunked(&store)];
    let known = layer(&disk(1..4000));
    replicas[0].push("a", &known).await.unwrap();
    replicas[1].learn_chunks().await;
    let (before, _) = stored(&store, "data").await;
    let blob = layer(&[disk(1..4000), disk(5000..5010)].concat());
    let id = replicas[0].begin("a").await;
    let mut start = 0;
    for (turn, length) in [100_usize, 5_000_000, 4_000_001, 7, 6_234_567].into_iter().cycle().enumerate() {
        let piece = blob.slice(start..blob.len().min(start + length));
        if piece.is_empty() {
            break;
        }
        start += piece.len();
        assert_eq!(
            replicas[turn % 2].append_bytes("a", id, (start - piece.len()) as u64, &piece).await.unwrap(),
            start as u64
        );
    }
    replicas[1].finish("a", id, &sha256(&blob)).await.unwrap();
    assert!(replicas[0].pull("a", &sha256(&blob)).await.unwrap() == blob);
    let (after, _) = stored(&store, "data").await;
    // Each piece begins and ends with a chunk of its own, and it takes some until the cuts are those of before again.
    assert!(after - before < blob.len() as u64 / 4, "{} of {} bytes are new", after - before, blob.len());
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing_and_takes_nothing_along() {
    let store = memory();
    let registry = chunked(&store);
    let first = layer(&disk(1..600));
    registry.push("a", &first).await.unwrap();
    let before = kept(&store).await;
    let second = layer(&disk(300..900));
    let id = registry.begin("a").await;
    registry.append_bytes("a", id, 0, &second.slice(..2_000_000)).await.unwrap();
    assert_ne!(stored(&store, "recipes").await, before[1]);
    registry.cancel_upload(&name("a"), id).await.unwrap();
    assert_eq!(kept(&store).await, before);
    // Nor does one that breaks off, or has another digest than it said.
    let refused =
        registry.push_blob(&name("a"), Append::default(), &mut broken_body(&second), &sha256(&second)).await;
    assert!(refused.is_err());
    let refused =
        registry.push_blob(&name("a"), Append::default(), &mut body(&second), &sha256(b"other")).await;
    assert!(refused.is_err());
    assert_eq!(kept(&store).await, before);
    assert!(registry.pull("a", &sha256(&first)).await.unwrap() == first);
}

#[tokio::test]
async fn a_crash_costs_an_upload_what_came_since_the_last_checkpoint() {
    let store = memory();
    let blob = layer(&disk(1..600));
    let id = {
        let registry = chunked(&store);
        let id = registry.begin("a").await;
        let mut first = broken_body(&blob.slice(..1_900_000));
        let broken = registry.append(&name("a"), id, at(0), &mut first).await;
        assert!(broken.is_err());
        id
    };
    let registry = chunked(&store);
    let length = registry.upload_status(&name("a"), id).await.unwrap().length;
    assert!(length > 1_900_000 - chunked_rules().checkpoint && length <= 1_900_000, "{length}");
    let start = usize::try_from(length).unwrap();
    registry.append_bytes("a", id, length, &blob.slice(start..)).await.unwrap();
    registry.finish("a", id, &sha256(&blob)).await.unwrap();
    assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
}

#[tokio::test]
async fn a_chunk_that_is_damaged_breaks_the_stream_and_is_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Filesystem::open(folder.path()).await.unwrap());
    let registry = chunked(&store);
    let blob = layer(&disk(1..50));
    registry.push("a", &blob).await.unwrap();
    let packs: Vec<_> = store.list(&Key::parse("data").unwrap(), None).try_collect().await.unwrap();
    let path = folder.path().join(packs[0].key.as_str());
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let found = registry.open_blob(&name("a"), &sha256(&blob)).await.unwrap();
    let mut pieces = found.stream(0..found.size());
    let mut good = Vec::new();
    let error = loop {
        match pieces.try_next().await {
            Ok(Some(piece)) => good.extend_from_slice(&piece),
            Ok(None) => panic!("damaged bytes were served"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(blob.starts_with(&good));
    assert!(error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn what_many_read_at_once_is_fetched_once() {
    let counting = Counting::new(memory());
    let tally = counting.tally();
    let store: Arc<dyn Store> = Arc::new(counting);
    let rules = Rules { read_memory: 64 << 20, ..chunked_rules() };
    let registry = Registry::with_rules(Arc::clone(&store), rules);
    let blob = layer(&disk(1..2000));
    registry.push("a", &blob).await.unwrap();
    let (one, _) = stored(&store, "data").await;
    let before = tally.data_read.load(Relaxed);
    let digest = sha256(&blob);
    let readers = (0..100).map(|_| registry.pull("a", &digest));
    for read in futures::future::join_all(readers).await {
        assert!(read.unwrap() == blob);
    }
    // And whoever reads pieces of it reads the same ones.
    for at in (0..blob.len() - 100).step_by(99_999) {
        assert!(range(&registry, &blob, at, at + 100).await == blob[at..at + 100]);
    }
    let fetched = tally.data_read.load(Relaxed) - before;
    assert!(fetched <= one, "{fetched} bytes were read of {one}");
}

#[tokio::test]
async fn a_reader_that_stands_still_holds_up_no_other() {
    let rules = Rules { read_memory: 64 << 20, ..chunked_rules() };
    let registry = Registry::with_rules(memory(), rules);
    // Several times what is read ahead.
    let blob = layer(&disk(1..12_000));
    registry.push("a", &blob).await.unwrap();
    let still = registry.open_blob(&name("a"), &sha256(&blob)).await.unwrap();
    let mut pieces = still.stream(0..still.size());
    assert!(pieces.try_next().await.unwrap().is_some());
    // Nobody polls it from here on.
    assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
    drop(pieces);
}

#[tokio::test]
async fn what_is_compressed_already_is_not_cut() {
    let store = memory();
    let registry = chunked(&store);
    let blob = Bytes::from([&[0x1f, 0x8b, 8][..], &disk(1..100)].concat());
    registry.push("a", &blob).await.unwrap();
    assert_eq!(stored(&store, "recipes").await, (0, 0));
    assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
}

#[tokio::test]
async fn the_bytes_of_another_algorithm_are_read_again_from_their_chunks() {
    let registry = chunked(&memory());
    let blob = layer(&disk(1..100));
    let id = registry.begin("a").await;
    registry.append_bytes("a", id, 0, &blob).await.unwrap();
    let digest = dvcr::oci::Digest::of(Algorithm::Sha512, &blob);
    registry.finish("a", id, &digest).await.unwrap();
    assert!(registry.pull("a", &digest).await.unwrap() == blob);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_goes_in_comes_out_in_any_range(
        starts in proptest::collection::vec((0_u32..400, 1_u32..60), 1..6),
        is_layer in any::<bool>(),
        cut in 0_usize..5000,
        pieces in proptest::collection::vec(1_usize..300_000, 1..6),
        ranges in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = chunked(&memory());
            // Something is known already, which the blob may have parts of.
            registry.push("a", &layer(&disk(100..200))).await.unwrap();
            let disk: Vec<u8> = starts.into_iter().flat_map(|(start, length)| disk(start..start + length)).collect();
            let disk = &disk[..disk.len() - cut.min(disk.len())];
            let blob = if is_layer { layer(disk) } else { Bytes::copy_from_slice(disk) };
            let id = registry.begin("a").await;
            let mut start = 0;
            for length in pieces.into_iter().cycle() {
                let piece = blob.slice(start..blob.len().min(start + length));
                if piece.is_empty() {
                    break;
                }
                registry.append_bytes("a", id, start as u64, &piece).await.unwrap();
                start += piece.len();
            }
            registry.finish("a", id, &sha256(&blob)).await.unwrap();
            assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
            for (one, other) in ranges {
                let (one, other) = (one.index(blob.len() + 1), other.index(blob.len() + 1));
                let (from, to) = (one.min(other), one.max(other));
                assert!(range(&registry, &blob, from, to).await == blob[from..to], "{from}..{to}");
            }
        });
    }
}

/// Reads of data that a blob of files takes that lie on three disks, and its bytes.
async fn reads_of_scattered(run: u64) -> (u64, u64) {
    const FILE: usize = 3 * BLOCK;
    let counting = Counting::new(memory());
    let tally = counting.tally();
    let rules = Rules { run, pack: 1 << 20, checkpoint: 64 << 20, ..chunked_rules() };
    let registry = Registry::with_rules(Arc::new(counting), rules);
    let mut disks = [1, 10_001, 20_001].map(|first| disk(first..first + 3000));
    for file in disks.iter_mut().flat_map(|disk| disk.chunks_mut(FILE)) {
        file[FILE - 200..].fill(0);
    }
    for disk in &disks {
        registry.push("a", &layer(disk)).await.unwrap();
    }
    // One file of each disk in turn.
    let file = |number: usize| &disks[number % 3][number * FILE..][..FILE];
    let blob = layer(&(0..1000).flat_map(file).copied().collect::<Vec<u8>>());
    registry.push("a", &blob).await.unwrap();
    let before = tally.data_reads.load(Relaxed);
    assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
    (tally.data_reads.load(Relaxed) - before, blob.len() as u64)
}

#[tokio::test]
async fn a_blob_of_what_lies_scattered_is_read_in_few_pieces() {
    let (reads, bytes) = reads_of_scattered(64 << 10).await;
    assert!(reads <= bytes / (48 << 10), "{reads} reads for {bytes} bytes");
    let (all, _) = reads_of_scattered(0).await;
    assert!(all > 2 * reads, "{all} reads if nothing is done about it");
}

#[tokio::test]
async fn what_is_damaged_is_not_counted_on_any_more() {
    let store = memory();
    // All in one pack: of others nothing is known before they are read.
    let rules = Rules { pack: 64 << 20, checkpoint: 64 << 20, ..chunked_rules() };
    let registry = Registry::with_rules(Arc::clone(&store), rules);
    let disk = disk(1..300);
    let damaged = layer(&disk);
    registry.push("a", &damaged).await.unwrap();
    for entry in store.list(&Key::parse("data").unwrap(), None).try_collect::<Vec<_>>().await.unwrap() {
        store.delete(&entry.key).await.unwrap();
    }
    assert!(registry.pull("a", &sha256(&damaged)).await.is_err());
    // Another image with the same content: what was found damaged is stored again.
    let blob = layer(&[disk.as_slice(), &[7; BLOCK]].concat());
    registry.push("a", &blob).await.unwrap();
    assert!(registry.pull("a", &sha256(&blob)).await.unwrap() == blob);
}
