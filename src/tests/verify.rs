//! Verification: what is damaged or missing is found, whatever it is; nobody is given it; and a push heals it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dvcr::registry::{
    Checked, Collected, Depth, Error, Finding, Kind, Registry, Rules, Verification, Verified,
};
use storage_backends::fault::{Fault, Faulty};
use storage_backends::{Condition, Key, Store};
use tokio::sync::mpsc;

use super::registry_under_test::{Client, chunked_rules, memory, name, objects, rules, sample, sha256};

const DEPTHS: [Depth; 3] = [Depth::Quick, Depth::Stored, Depth::Deep];

fn registry(store: &Arc<dyn Store>, rules: Rules) -> Registry {
    Registry::with_rules(Arc::clone(store), Rules { grace: Duration::ZERO, ..rules })
}

fn at(depth: Depth) -> Verification {
    Verification { depth, ..Verification::default() }
}

async fn events(registry: &Registry, wanted: Verification) -> Vec<Verified> {
    let (lines, mut come) = mpsc::channel(1);
    let listening = async {
        let mut all = Vec::new();
        while let Some(event) = come.recv().await {
            all.push(event);
        }
        all
    };
    let verifying = async {
        registry.verify(wanted, &lines).await.unwrap();
        drop(lines);
    };
    tokio::join!(listening, verifying).0
}

async fn verify(registry: &Registry, wanted: Verification) -> (Vec<Finding>, Checked) {
    let (mut found, mut tally) = (Vec::new(), None);
    for event in events(registry, wanted).await {
        match event {
            Verified::Found(finding) => found.push(finding),
            Verified::Ends(ended) => tally = Some(ended),
            Verified::Begins { .. } | Verified::Passes(_) => {}
        }
    }
    (found, tally.expect("it ends"))
}

/// Changes a byte of an object, in the middle.
async fn damage(store: &Arc<dyn Store>, key: &Key) {
    let mut bytes = store.get(key).await.unwrap().bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    store.put(key, bytes.into(), Condition::None).await.unwrap();
}

/// Changes a byte of each object that holds data.
async fn damage_data(store: &Arc<dyn Store>) {
    for key in objects(store, "data").await {
        damage(store, &key).await;
    }
}

/// Two images with much in common, and the layers.
async fn two_images(registry: &Registry) -> [Bytes; 2] {
    let layers = [sample(60_000), Bytes::from([&sample(60_000)[..], b"and more"].concat())];
    for (tag, layer) in ["v1", "v2"].iter().zip(&layers) {
        registry.push_image("a", tag, layer).await.unwrap();
    }
    layers
}

/// Pushes both images again, and pulls what was pushed.
async fn push_again(to: &Registry, from: &Registry, layers: &[Bytes; 2], damaged: &str) {
    for (tag, layer) in ["v1", "v2"].iter().zip(layers) {
        to.push_image("a", tag, layer).await.unwrap();
        assert_eq!(from.pull("a", &sha256(layer)).await.unwrap(), *layer, "{damaged}");
    }
}

#[tokio::test]
async fn where_nothing_is_wrong_nothing_is_found_and_each_stored_byte_is_read_once() {
    for rules in [rules(), chunked_rules()] {
        let store = memory();
        let registry = registry(&store, rules);
        let layers = two_images(&registry).await;
        let mut read = Vec::new();
        for depth in DEPTHS {
            let (found, tally) = verify(&registry, at(depth)).await;
            assert_eq!(found, [], "{depth:?}");
            assert_eq!((tally.manifests, tally.tags, tally.blobs.count), (2, 2, 3));
            assert_eq!(tally.orphaned.count, 0);
            read.push(tally.read);
        }
        let stored: u64 = registry.stats().await.unwrap().stored_bytes;
        let pushed: u64 = layers.iter().map(|layer| layer.len() as u64).sum();
        assert!(read[0] < 1_000, "{read:?}");
        assert!(read[1] <= stored && read[1] > stored / 2, "{read:?} of {stored}");
        assert!(read[2] >= pushed, "{read:?}");
        assert!(objects(&store, "quarantine").await.is_empty());
    }
}

#[tokio::test]
async fn whatever_is_damaged_is_found_and_a_push_heals_it() {
    for rules in [rules(), chunked_rules()] {
        let keys = {
            let store = memory();
            two_images(&registry(&store, rules)).await;
            let mut numbers = Vec::new();
            for folder in ["data", "recipes", "blobs", "repositories"] {
                numbers.push((folder, objects(&store, folder).await.len()));
            }
            numbers
        };
        for (folder, number) in keys {
            for which in 0..number {
                let store = memory();
                let registry = registry(&store, rules);
                let other = self::registry(&store, rules);
                let layers = two_images(&registry).await;
                let key = objects(&store, folder).await[which].clone();
                if store.get(&key).await.unwrap().bytes.is_empty() {
                    continue;
                }
                damage(&store, &key).await;
                let (found, _) = verify(&other, at(Depth::Deep)).await;
                // Of a pack some bytes may be nobody's any more.
                let is_harmless = found.is_empty() && folder == "data";
                let is_told_only =
                    |found: &Finding| matches!(found.kind, Kind::Tag | Kind::Manifest | Kind::Membership);
                let is_settled = found.iter().all(|found| found.quarantined || is_told_only(found));
                assert!(is_settled, "{key}: {found:?}");
                assert!(!found.is_empty() || is_harmless, "{key} was not found");
                push_again(&registry, &registry, &layers, key.as_str()).await;
                let (found, _) = verify(&other, at(Depth::Deep)).await;
                assert_eq!(found, [], "{key}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_damaged_is_served_to_nobody_and_said_not_to_be_there() {
    for rules in [rules(), chunked_rules()] {
        let store = memory();
        let [registry, other] = [registry(&store, rules), registry(&store, rules)];
        let layers = two_images(&registry).await;
        other.learn_chunks().await;
        registry.mount(&name("b"), &sha256(&layers[0]), Some(&name("a"))).await.unwrap();
        damage_data(&store).await;
        let (found, _) = verify(&registry, at(Depth::Stored)).await;
        let blobs: Vec<_> = found.iter().filter(|found| found.kind == Kind::Blob).collect();
        assert_eq!(blobs.len(), 2, "{found:?}");
        let first = blobs.iter().find(|found| found.digest == Some(sha256(&layers[0]))).unwrap();
        let mut repositories = first.repositories.clone();
        repositories.sort();
        assert_eq!(repositories, ["a", "b"]);
        for (repository, layer) in [("a", &layers[0]), ("a", &layers[1]), ("b", &layers[0])] {
            let asked = registry.blob_size(&name(repository), &sha256(layer)).await;
            assert!(matches!(asked, Err(Error::BlobUnknown { .. })), "{asked:?}");
            let mounted = registry.mount(&name("c"), &sha256(layer), Some(&name(repository))).await.unwrap();
            assert!(!mounted);
        }
        // The data stays for a while with what was put aside, and is no orphan.
        assert_eq!(objects(&store, "quarantine").await.len(), 2);
        let collected = registry.collect(false).await.unwrap();
        assert_eq!((collected.unreadable, collected.data), (0, Collected::default().data));
        // Of several packs none is built upon, by whoever knew of them.
        push_again(&other, &registry, &layers, "all data").await;
        assert_eq!(verify(&other, at(Depth::Deep)).await.0, []);
    }
}

#[tokio::test]
async fn what_is_missing_is_found_without_reading_data() {
    for rules in [rules(), chunked_rules()] {
        let folders = ["data", "recipes", "blobs", "repositories/a/_manifests"];
        for (folder, is_cut) in folders.into_iter().flat_map(|folder| [(folder, false), (folder, true)]) {
            let number = {
                let store = memory();
                two_images(&registry(&store, rules)).await;
                objects(&store, folder).await.len()
            };
            for which in 0..number {
                let store = memory();
                let registry = registry(&store, rules);
                let layers = two_images(&registry).await;
                let key = objects(&store, folder).await[which].clone();
                if is_cut {
                    let bytes = store.get(&key).await.unwrap().bytes;
                    store.put(&key, bytes.slice(..bytes.len() - 1), Condition::None).await.unwrap();
                } else {
                    store.delete(&key).await.unwrap();
                }
                let (found, _) = verify(&registry, at(Depth::Quick)).await;
                assert!(!found.is_empty(), "{key} is not missed");
                push_again(&registry, &registry, &layers, key.as_str()).await;
                let (found, _) = verify(&registry, at(Depth::Stored)).await;
                assert_eq!(found, [], "{key}");
            }
        }
    }
}

#[tokio::test]
async fn an_image_whose_manifest_is_damaged_keeps_its_layers_until_it_is_pushed_again() {
    let store = memory();
    let registry = registry(&store, chunked_rules());
    let layer = sample(60_000);
    registry.push_image("a", "v1", &layer).await.unwrap();
    damage(&store, &objects(&store, "repositories/a/_manifests").await[0]).await;
    let before = objects(&store, "data").await;
    assert_eq!(verify(&registry, at(Depth::Stored)).await.0.len(), 1);
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        registry.collect(false).await.unwrap();
    }
    assert_eq!(objects(&store, "data").await, before);
    registry.push_image("a", "v1", &layer).await.unwrap();
    assert_eq!(verify(&registry, at(Depth::Deep)).await.0, []);
}

#[tokio::test]
async fn what_a_later_release_wrote_is_not_taken_for_damage() {
    let store = memory();
    let registry = registry(&store, chunked_rules());
    registry.push_image("a", "v1", &sample(60_000)).await.unwrap();
    let key = objects(&store, "blobs").await[0].clone();
    let later: Bytes = r#"{"version":1,"size":5,"extents":[{"cloud":{"id":1}}]}"#.into();
    store.put(&key, later.clone(), Condition::None).await.unwrap();
    let (found, _) = verify(&registry, at(Depth::Stored)).await;
    assert!(found.iter().all(|found| found.kind == Kind::Unknown && !found.quarantined), "{found:?}");
    assert_eq!((found.len(), store.get(&key).await.unwrap().bytes), (1, later));
}

#[tokio::test]
async fn a_look_tells_the_same_and_changes_nothing() {
    let store = memory();
    let registry = registry(&store, chunked_rules());
    two_images(&registry).await;
    damage_data(&store).await;
    let looked = verify(&registry, Verification { only_look: true, ..at(Depth::Stored) }).await.0;
    assert!(objects(&store, "quarantine").await.is_empty());
    assert!(looked.iter().all(|found| !found.quarantined));
    let found = verify(&registry, at(Depth::Stored)).await.0;
    assert_eq!(looked.len(), found.len());
}

#[tokio::test]
async fn one_that_was_broken_off_goes_on_at_another_replica() {
    let store = memory();
    let [one, other] = [registry(&store, chunked_rules()), registry(&store, chunked_rules())];
    two_images(&one).await;
    let (lines, mut come) = mpsc::channel(1);
    let listening = async {
        let mut passed = 0;
        while passed == 0 {
            if let Some(Verified::Passes(bytes)) = come.recv().await {
                passed = bytes;
            }
        }
        drop(come);
        passed
    };
    let (heard, verified) = tokio::join!(listening, one.verify(at(Depth::Stored), &lines));
    verified.unwrap();
    let Verified::Begins { passed, .. } = events(&other, at(Depth::Stored)).await[0] else { panic!() };
    assert!(passed >= heard, "{passed} of {heard}");
    let Verified::Begins { passed, .. } = events(&other, at(Depth::Stored)).await[0] else { panic!() };
    assert_eq!(passed, 0, "it was done");
}

#[tokio::test]
async fn what_one_finds_is_counted_though_it_is_broken_off() {
    let store = memory();
    let registry = registry(&store, chunked_rules());
    two_images(&registry).await;
    damage_data(&store).await;
    let (lines, mut come) = mpsc::channel(1);
    let listening = async {
        while !matches!(come.recv().await, Some(Verified::Found(_))) {}
        drop(come);
    };
    let ((), verified) = tokio::join!(listening, registry.verify(at(Depth::Stored), &lines));
    assert_eq!(verified.unwrap(), None);
    let tally = registry.verify_tally();
    assert!(tally.findings() > 0 && tally.read_bytes() > 0, "{tally:?}");
    let counted = tally.read_bytes();
    let (_, checked) = verify(&registry, at(Depth::Stored)).await;
    assert_eq!(registry.verify_tally().read_bytes(), counted + checked.read);
}

#[tokio::test]
async fn a_store_that_fails_is_not_taken_for_damage() {
    for rules in [rules(), chunked_rules()] {
        for call in 0.. {
            let store = memory();
            let layers = two_images(&registry(&store, rules)).await;
            let faulty = Arc::new(Faulty::new(Arc::clone(&store)));
            let shared: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
            faulty.arm(None, call, Fault::Fails);
            let (lines, mut come) = mpsc::channel(1000);
            let verified = registry(&shared, rules).verify(at(Depth::Deep), &lines).await;
            let happened = faulty.disarm();
            drop(lines);
            let mut unknown = 0;
            while let Some(event) = come.recv().await {
                if let Verified::Found(finding) = event {
                    assert_eq!((finding.kind, finding.quarantined), (Kind::Unknown, false), "call {call}");
                    unknown += 1;
                }
            }
            assert!(objects(&store, "quarantine").await.is_empty(), "call {call}");
            if !happened {
                assert!(verified.is_ok() && unknown == 0);
                break;
            }
            for layer in &layers {
                assert_eq!(registry(&store, rules).pull("a", &sha256(layer)).await.unwrap(), *layer);
            }
        }
    }
}
