//! What nothing needs goes, in steps; what somebody needs, or was told of, stays.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dvcr::oci::MediaType;
use dvcr::registry::{Amount, Collected, Error, Registry, Rules, Step};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use storage_backends::fault::{Fault, Faulty};
use storage_backends::{Condition, Key, Store};

use super::registry_under_test::{
    Client, at, at_each_call, body, chunked_rules, is_tombstone, memory, name, objects, rules, sample, sha256,
};

/// Nothing has to wait but for the next collection.
fn at_once(rules: Rules) -> Rules {
    Rules { grace: Duration::ZERO, abandoned: Duration::ZERO, ..rules }
}

fn registry(store: &Arc<dyn Store>, rules: Rules) -> Registry {
    Registry::with_rules(Arc::clone(store), rules)
}

/// Uploads do not end, and everything else goes as soon as it is seen twice.
fn keeping_uploads(rules: Rules) -> Rules {
    Rules { abandoned: Duration::from_hours(1), ..at_once(rules) }
}

/// Objects that are records.
async fn records(store: &Arc<dyn Store>, folder: &str) -> usize {
    let entries = store.list(&Key::parse(folder).unwrap(), None);
    entries
        .try_filter(|entry| std::future::ready(!is_tombstone(entry.size)))
        .try_collect::<Vec<_>>()
        .await
        .unwrap()
        .len()
}

async fn collect_once(registry: &Registry) -> Collected {
    // What is condemned in one millisecond goes in another.
    tokio::time::sleep(Duration::from_millis(2)).await;
    registry.collect(false).await.unwrap()
}

/// Collects until nothing is left to collect, and gives what was deleted.
async fn collect(registry: &Registry) -> [Amount; 4] {
    let mut deleted = [Amount::default(); 4];
    for _ in 0..20 {
        let Collected { uploads, members, blobs, data, .. } = collect_once(registry).await;
        let steps = [uploads, members, blobs, data];
        for (sum, step) in deleted.iter_mut().zip(steps) {
            sum.count += step.deleted.count;
            sum.bytes += step.deleted.bytes;
        }
        if steps == [Step::default(); 4] {
            return deleted;
        }
    }
    panic!("it never ends");
}

async fn delete_image(registry: &Registry, repository: &str, tag: &str) {
    let manifest = registry.manifest(&name(repository), &tag.parse().unwrap()).await.unwrap();
    registry.delete_manifest(&name(repository), &manifest.digest).await.unwrap();
}

#[tokio::test]
async fn of_images_that_are_there_nothing_goes() {
    for rules in [rules(), chunked_rules()] {
        let store = memory();
        let registry = registry(&store, at_once(rules));
        let layers = [sample(50_000), sample(10)];
        for (tag, layer) in ["v1", "v2"].iter().zip(&layers) {
            registry.push_image("a", tag, layer).await.unwrap();
        }
        assert_eq!(collect(&registry).await, [Amount::default(); 4]);
        for layer in &layers {
            assert_eq!(registry.pull("a", &sha256(layer)).await.unwrap(), *layer);
        }
    }
}

#[tokio::test]
async fn of_an_image_that_is_deleted_nothing_is_left() {
    for rules in [rules(), chunked_rules()] {
        let store = memory();
        let registry = registry(&store, at_once(rules));
        let layer = sample(50_000);
        registry.push_image("a", "v1", &layer).await.unwrap();
        delete_image(&registry, "a", "v1").await;
        let [uploads, members, blobs, data] = collect(&registry).await;
        assert_eq!(uploads, Amount::default());
        assert_eq!(
            (members, blobs),
            (Amount { count: 2, bytes: 50_002 }, Amount { count: 2, bytes: 50_002 })
        );
        assert!(data.count > 0);
        for folder in ["data", "recipes", "index"] {
            assert!(objects(&store, folder).await.is_empty(), "{folder}");
        }
        assert_eq!(records(&store, "blobs").await, 0);
        let gone = registry.pull("a", &sha256(&layer)).await;
        assert!(matches!(gone, Err(Error::BlobUnknown { .. })));
    }
}

#[tokio::test]
async fn whatever_a_manifest_names_stays() {
    let store = memory();
    let registry = registry(&store, at_once(rules()));
    let (foreign, cached) = (sample(5_000), sample(6_000));
    let config = Bytes::from_static(b"{}");
    for blob in [&foreign, &cached, &config] {
        registry.push("a", blob).await.unwrap();
    }
    let descriptor = |blob: &Bytes| serde_json::json!({ "mediaType": "application/x", "digest": sha256(blob), "size": blob.len() });
    // A layer that clients may fetch elsewhere, and an index of what are no manifests: so BuildKit keeps its cache.
    let mut layer = descriptor(&foreign);
    layer["urls"] = serde_json::json!(["https://example.com/layer"]);
    let image = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::IMAGE, "config": descriptor(&config), "layers": [layer],
    });
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": [descriptor(&cached)],
    });
    for (tag, manifest) in [("image", image), ("cache", index)] {
        let bytes = Bytes::from(manifest.to_string());
        registry.push_manifest(&name("a"), &tag.parse().unwrap(), &[], None, bytes).await.unwrap();
    }
    assert_eq!(collect(&registry).await, [Amount::default(); 4]);
    for blob in [&foreign, &cached] {
        assert_eq!(registry.pull("a", &sha256(blob)).await.unwrap(), *blob);
    }
}

#[tokio::test]
async fn what_other_images_share_stays() {
    let store = memory();
    let registry = registry(&store, at_once(chunked_rules()));
    let (old, new) = (sample(300_000), Bytes::from([sample(300_000), sample(7_000)].concat()));
    registry.push_image("a", "old", &old).await.unwrap();
    registry.push_image("a", "new", &new).await.unwrap();
    registry.push_image("b", "new", &new).await.unwrap();
    delete_image(&registry, "a", "old").await;
    delete_image(&registry, "b", "new").await;
    collect(&registry).await;
    assert_eq!(registry.pull("a", &sha256(&new)).await.unwrap(), new);
    assert!(registry.pull("a", &sha256(&old)).await.is_err());
    assert!(registry.pull("b", &sha256(&new)).await.is_err());
}

#[tokio::test]
async fn what_was_deleted_can_be_pushed_again_at_any_step() {
    for rules in [rules(), chunked_rules()] {
        for steps in 0..8 {
            let store = memory();
            let [one, other] = [at_once(rules), at_once(rules)].map(|rules| registry(&store, rules));
            let layer = sample(50_000);
            one.push_image("a", "v1", &layer).await.unwrap();
            delete_image(&one, "a", "v1").await;
            for _ in 0..steps {
                collect_once(&one).await;
            }
            other.push_image("a", "v1", &layer).await.unwrap();
            collect(&one).await;
            assert_eq!(other.pull("a", &sha256(&layer)).await.unwrap(), layer, "after {steps} steps");
            assert_eq!(one.pull("a", &sha256(&layer)).await.unwrap(), layer, "after {steps} steps");
        }
    }
}

#[tokio::test]
async fn who_was_told_of_a_blob_can_count_on_it() {
    let store = memory();
    let registry = registry(&store, at_once(rules()));
    let blob = sample(5_000);
    let digest = registry.push("a", &blob).await.unwrap();
    let condemned = collect_once(&registry).await.members.condemned;
    assert_eq!(condemned, Amount { count: 1, bytes: 5_000 });
    assert_eq!(registry.blob_size(&name("a"), &digest).await.unwrap(), 5_000);
    let again = collect_once(&registry).await.members;
    assert_eq!((again.condemned.count, again.deleted.count), (1, 0), "its grace begins anew");
    assert!(registry.mount(&name("b"), &digest, Some(&name("a"))).await.unwrap());
    assert_eq!(collect_once(&registry).await.members.deleted.count, 0);
    assert_eq!(collect_once(&registry).await.members.deleted.count, 2);
    assert!(!registry.mount(&name("c"), &digest, Some(&name("a"))).await.unwrap());
    assert!(matches!(registry.blob_size(&name("a"), &digest).await, Err(Error::BlobUnknown { .. })));
}

#[tokio::test]
async fn nobody_is_told_of_a_blob_that_was_taken_away_while_somebody_who_died_made_it_a_member() {
    let store = memory();
    let registry = registry(&store, at_once(rules()));
    let blob = sample(5_000);
    let digest = registry.push("a", &blob).await.unwrap();
    // A mount or a push writes this, then looks whether the blob is there; and may die in between.
    let membership = format!("_blobs/sha256/{}", digest.hex());
    let written =
        store.get(&Key::parse(format!("repositories/a/{membership}")).unwrap()).await.unwrap().bytes;
    registry.delete_blob(&name("a"), &digest).await.unwrap();
    collect(&registry).await;
    let key = Key::parse(format!("repositories/b/{membership}")).unwrap();
    store.put(&key, written, Condition::None).await.unwrap();

    let unknown = |error| matches!(error, Error::BlobUnknown { .. });
    assert!(registry.blob_size(&name("b"), &digest).await.is_err_and(unknown));
    assert!(registry.open_blob(&name("b"), &digest).await.is_err_and(unknown));
    assert!(!registry.mount(&name("c"), &digest, Some(&name("b"))).await.unwrap());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::IMAGE,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": blob.len() },
        "layers": [],
    });
    let (reference, bytes) = ("v1".parse().unwrap(), Bytes::from(manifest.to_string()));
    let pushed = registry.push_manifest(&name("b"), &reference, &[], None, bytes).await;
    assert!(matches!(pushed, Err(Error::ManifestBlobUnknown { .. })), "{pushed:?}");
    registry.push("b", &blob).await.unwrap();
    assert_eq!(registry.pull("b", &digest).await.unwrap(), blob);
}

#[tokio::test]
async fn the_same_page_in_two_packs_keeps_both() {
    let store = memory();
    // Neither knows what the other one stores, so that all is stored twice.
    let [one, other] =
        [at_once(chunked_rules()), at_once(chunked_rules())].map(|rules| registry(&store, rules));
    // A request of its own for the hole, whose page has a pack of its own then.
    let hole = Bytes::from(vec![0; 300_000]);
    for (registry, tag, end) in [(&one, "v1", sample(5_000)), (&other, "v2", sample(6_000))] {
        let disk = Bytes::from([&hole[..], &end].concat());
        let id = registry.begin("a").await;
        registry.append_bytes("a", id, 0, &hole).await.unwrap();
        registry.append_bytes("a", id, 300_000, &end).await.unwrap();
        registry.finish("a", id, &sha256(&disk)).await.unwrap();
        registry.push_image("a", tag, &disk).await.unwrap();
    }
    collect(&one).await;
    for end in [sample(5_000), sample(6_000)] {
        let disk = Bytes::from([&hole[..], &end].concat());
        let fresh = self::registry(&store, at_once(chunked_rules()));
        assert_eq!(fresh.pull("a", &sha256(&disk)).await.unwrap(), disk);
    }
}

#[tokio::test]
async fn nothing_goes_before_the_grace_is_over() {
    let store = memory();
    let patient = registry(&store, rules());
    let layer = sample(50_000);
    patient.push_image("a", "v1", &layer).await.unwrap();
    delete_image(&patient, "a", "v1").await;
    for _ in 0..5 {
        assert_eq!(collect_once(&patient).await, Collected::default(), "it was pushed lately");
    }
    assert_eq!(patient.pull("a", &sha256(&layer)).await.unwrap(), layer);
}

#[tokio::test]
async fn a_look_changes_nothing_and_tells_what_would_go_in_the_end() {
    let store = memory();
    let registry = registry(&store, at_once(chunked_rules()));
    registry.push_image("a", "v1", &sample(50_000)).await.unwrap();
    delete_image(&registry, "a", "v1").await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let told = registry.collect(true).await.unwrap();
    assert_eq!(told, registry.collect(true).await.unwrap());
    let [_, members, blobs, data] = collect(&registry).await;
    assert_eq!((told.members.deleted, told.blobs.deleted, told.data.deleted), (members, blobs, data));
}

#[tokio::test]
async fn an_upload_keeps_what_it_has_and_one_that_is_abandoned_goes() {
    for rules in [rules(), chunked_rules()] {
        let store = memory();
        let registry = registry(&store, keeping_uploads(rules));
        let blob = sample(60_000);
        let id = registry.begin("a").await;
        registry.append_bytes("a", id, 0, &blob.slice(..35_000)).await.unwrap();
        collect(&registry).await;
        registry.append_bytes("a", id, 35_000, &blob.slice(35_000..)).await.unwrap();
        collect(&registry).await;
        registry.finish("a", id, &sha256(&blob)).await.unwrap();
        assert_eq!(registry.pull("a", &sha256(&blob)).await.unwrap(), blob);

        let id = registry.begin("b").await;
        registry.append_bytes("b", id, 0, &Bytes::from([&b"other"[..], &blob].concat())).await.unwrap();
        let impatient = self::registry(&store, at_once(rules));
        let [uploads, ..] = collect(&impatient).await;
        assert_eq!(uploads, Amount { count: 1, bytes: 60_005 });
        assert!(matches!(registry.upload_status(&name("b"), id).await, Err(Error::SessionUnknown { .. })));
        for folder in ["uploads", "data", "recipes"] {
            assert!(objects(&store, folder).await.is_empty(), "{folder}");
        }
    }
}

#[tokio::test]
async fn an_upload_that_is_under_way_keeps_what_it_wrote_and_what_it_found() {
    let store = memory();
    let [one, other] = [keeping_uploads(chunked_rules()), keeping_uploads(chunked_rules())]
        .map(|rules| registry(&store, rules));
    let old = sample(200_000);
    one.push_image("a", "v1", &old).await.unwrap();
    let new = Bytes::from([old.clone(), sample(100_000)].concat());
    // Held in the middle, for as long as it takes to collect everything.
    let (held, release) = tokio::sync::oneshot::channel::<()>();
    let rest = new.slice(250_000..);
    let pieces = futures::stream::iter(
        new.slice(..250_000).chunks(7_000).map(Bytes::copy_from_slice).collect::<Vec<_>>(),
    );
    let later = futures::stream::once(async move {
        release.await.unwrap();
        rest
    });
    let mut body: dvcr::registry::Body = Box::pin(pieces.chain(later).map(Ok));
    let digest = sha256(&new);
    let repository = name("a");
    let push = one.push_blob(&repository, at(0), &mut body, &digest);
    let collecting = async {
        delete_image(&other, "a", "v1").await;
        for _ in 0..6 {
            collect_once(&other).await;
        }
        held.send(()).unwrap();
    };
    let (pushed, ()) = tokio::join!(push, collecting);
    match pushed {
        Ok(()) => assert_eq!(one.pull("a", &digest).await.unwrap(), new),
        // It was told to begin again.
        Err(Error::SessionUnknown { .. }) => {
            one.push_blob(&name("a"), at(0), &mut self::body(&new), &digest).await.unwrap();
            assert_eq!(one.pull("a", &digest).await.unwrap(), new);
        }
        Err(error) => panic!("{error}"),
    }
}

/// A list of condemned objects as it is stored.
fn condemned(objects: &[Key], stage: &str) -> Bytes {
    let id = |key: &Key| key.as_str().rsplit('/').next().unwrap().to_owned();
    let (data, recipes): (Vec<&Key>, Vec<&Key>) =
        objects.iter().partition(|key| key.as_str().starts_with("data/"));
    let [data, recipes] = [data, recipes].map(|keys| keys.into_iter().map(id).collect::<Vec<_>>());
    let list = json!({ "version": 1, "since": 0, "data": data, "recipes": recipes, "stage": stage });
    list.to_string().into()
}

#[tokio::test(start_paused = true)]
async fn an_upload_waits_while_it_is_decided_what_becomes_of_its_data() {
    let list = Key::parse("condemned/0199a3a0-0000-7000-8000-000000000001").unwrap();
    for (then, is_kept) in [(Some("open"), true), (Some("settled"), false), (None, true)] {
        let store = memory();
        let registry = registry(&store, Rules { grace: Duration::from_hours(1), ..chunked_rules() });
        let blob = sample(60_000);
        registry.push_image("a", "v1", &blob).await.unwrap();
        let stored = objects(&store, "data").await;
        let id = registry.begin("b").await;
        // When the bytes have come, and before the upload looks whether what it uses stays.
        let (shared, key, closed) = (Arc::clone(&store), list.clone(), condemned(&stored, "closed"));
        let closing = stream::once(async move {
            shared.put(&key, closed, Condition::None).await.unwrap();
            Ok(Bytes::new())
        });
        let mut body = self::body(&blob).chain(closing).boxed();
        let deciding = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Some(stage) = then {
                store.put(&list, condemned(&stored, stage), Condition::None).await.unwrap();
            }
        };
        let repository = name("b");
        let appending = registry.append(&repository, id, at(0), &mut body);
        let (appended, ()) = tokio::join!(appending, deciding);
        match (then, &appended) {
            (Some("open"), Ok(_))
            | (None, Err(Error::Collecting))
            | (Some("settled"), Err(Error::SessionUnknown { .. })) => {}
            other => panic!("{other:?}"),
        }
        if then.is_none() {
            // The collection found that it cannot be known what is needed.
            store.put(&list, condemned(&stored, "open"), Condition::None).await.unwrap();
        }
        let finished = registry.finish("b", id, &sha256(&blob)).await;
        assert_eq!(finished.is_ok(), is_kept, "{then:?}: {finished:?}");
    }
}

#[tokio::test]
async fn while_it_is_not_known_what_is_needed_no_data_goes() {
    let store = memory();
    let registry = registry(&store, at_once(chunked_rules()));
    registry.push_image("a", "v1", &sample(50_000)).await.unwrap();
    registry.push_image("a", "v2", &Bytes::from([&b"x"[..], &sample(50_000)].concat())).await.unwrap();
    delete_image(&registry, "a", "v2").await;
    let damaged = objects(&store, "recipes").await[0].clone();
    store.put(&damaged, Bytes::from_static(b"damaged"), Condition::None).await.unwrap();
    let before = objects(&store, "data").await;
    let mut unreadable = 0;
    for _ in 0..6 {
        unreadable = collect_once(&registry).await.unreadable;
    }
    assert_eq!((unreadable, objects(&store, "data").await), (1, before));
}

#[tokio::test]
async fn a_damaged_record_of_any_kind_stops_nothing_but_the_deletion_of_data() {
    for folder in ["blobs", "uploads", "condemned", "index", "repositories/a/_blobs"] {
        let store = memory();
        let registry = registry(&store, keeping_uploads(chunked_rules()));
        let layer = sample(50_000);
        registry.push_image("a", "v1", &layer).await.unwrap();
        registry.push_image("b", "v1", &Bytes::from([&b"x"[..], &layer].concat())).await.unwrap();
        let id = registry.begin("a").await;
        registry.append_bytes("a", id, 0, &layer.slice(..30_000)).await.unwrap();
        delete_image(&registry, "b", "v1").await;
        for _ in 0..2 {
            collect_once(&registry).await;
        }
        for key in objects(&store, folder).await {
            let object = store.get(&key).await.unwrap();
            if is_tombstone(object.bytes.len() as u64) {
                continue;
            }
            store.put(&key, Bytes::from_static(b"damaged"), Condition::None).await.unwrap();
            for _ in 0..4 {
                collect_once(&registry).await;
            }
            store.put(&key, object.bytes, Condition::None).await.unwrap();
            assert_eq!(registry.pull("a", &sha256(&layer)).await.unwrap(), layer, "{key}");
            assert_eq!(registry.upload_status(&name("a"), id).await.unwrap().length, 30_000, "{key}");
        }
        registry.append_bytes("a", id, 30_000, &layer.slice(30_000..)).await.unwrap();
        registry.finish("a", id, &sha256(&layer)).await.unwrap();
    }
}

#[tokio::test]
async fn a_repository_with_a_manifest_that_cannot_be_read_keeps_its_blobs() {
    let store = memory();
    let registry = registry(&store, at_once(rules()));
    let (manifest, layer) = (registry.push_image("a", "v1", &sample(5_000)).await.unwrap(), sample(5_000));
    let key = Key::parse(format!("repositories/a/_manifests/sha256/{}", manifest.hex())).unwrap();
    store.put(&key, Bytes::from_static(b"damaged"), Condition::None).await.unwrap();
    assert_eq!(collect(&registry).await, [Amount::default(); 4]);
    assert_eq!(registry.pull("a", &sha256(&layer)).await.unwrap(), layer);
}

#[tokio::test]
async fn a_collection_survives_a_fault_at_any_call() {
    for rules in [rules(), chunked_rules()] {
        at_each_call(async |fault, skip| collect_with_a_fault(fault, rules, skip).await).await;
    }
}

/// Collects with a fault at a call, and tells whether there was such a call.
async fn collect_with_a_fault(fault: Fault, rules: Rules, skip: usize) -> bool {
    let (kept, deleted) = (sample(30_000), Bytes::from([&b"other"[..], &sample(20_000)].concat()));
    let faulty = Arc::new(Faulty::new(memory()));
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
    let registry = registry(&store, at_once(rules));
    registry.push_image("a", "kept", &kept).await.unwrap();
    registry.push_image("a", "deleted", &deleted).await.unwrap();
    delete_image(&registry, "a", "deleted").await;
    faulty.arm(None, skip, fault);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let _ = registry.collect(false).await;
    }
    let happened = faulty.disarm();
    assert_eq!(registry.pull("a", &sha256(&kept)).await.unwrap(), kept, "{fault:?} at call {skip}");
    collect(&registry).await;
    assert_eq!(registry.pull("a", &sha256(&kept)).await.unwrap(), kept, "{fault:?} at call {skip}");
    assert!(registry.pull("a", &sha256(&deleted)).await.is_err(), "{fault:?} at call {skip}");
    assert_eq!(records(&store, "blobs").await, 2, "{fault:?} at call {skip}");
    happened
}
