//! What rules of retention take away, and when.

mod races;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dvcr::oci::{Digest, MediaType, Reference, TagPattern};
use dvcr::registry::{Collected, Registry, Repositories, Result, RetentionRule, Rules};
use serde_json::{Value, json};
use storage_backends::{Condition, Key, Store};

use super::registry_under_test::{Client, is_tombstone, memory, name, objects, rules, sample, sha256};

/// A rule for all repositories but those below `other/`, after which what is not kept goes as soon as it is seen twice.
pub(super) fn rule() -> RetentionRule {
    RetentionRule {
        repositories: Repositories::that(|name| !name.as_str().starts_with("other/")),
        tags: Vec::new(),
        keep: Vec::new(),
        keep_last: None,
        keep_within: None,
        untagged_after: Duration::ZERO,
    }
}

pub(super) fn patterns(texts: &[&str]) -> Vec<TagPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(super) fn keeping(texts: &[&str]) -> RetentionRule {
    RetentionRule { keep: patterns(texts), ..rule() }
}

/// A registry that waits for nothing but the next collection.
pub(super) fn registry(store: &Arc<dyn Store>, rule: RetentionRule) -> Registry {
    with_grace(store, rule, Duration::ZERO)
}

pub(super) fn with_grace(store: &Arc<dyn Store>, rule: RetentionRule, grace: Duration) -> Registry {
    let rules = Rules { grace, abandoned: Duration::from_hours(1), ..rules() };
    Registry::with_rules(Arc::clone(store), rules).with_retention(vec![rule])
}

pub(super) async fn later() {
    // What is written or condemned in one millisecond is older in another.
    tokio::time::sleep(Duration::from_millis(2)).await;
}

pub(super) async fn collect_once(registry: &Registry) -> Collected {
    later().await;
    registry.collect(false).await.unwrap()
}

/// Collects until nothing is left to collect.
pub(super) async fn collect(registry: &Registry) {
    for _ in 0..30 {
        if collect_once(registry).await == Collected::default() {
            return;
        }
    }
    panic!("it never ends");
}

pub(super) async fn tags(registry: &Registry, repository: &str) -> Vec<String> {
    let page = registry.tags(&name(repository), 100, None).await.unwrap();
    page.entries.iter().map(ToString::to_string).collect()
}

pub(super) async fn has(registry: &Registry, repository: &str, digest: &Digest) -> bool {
    registry.manifest(&name(repository), &Reference::Digest(digest.clone())).await.is_ok()
}

/// Manifests that are stored. Nothing is spared by looking.
pub(super) async fn manifests(store: &Arc<dyn Store>, repository: &str) -> Vec<Digest> {
    let mut found = Vec::new();
    for key in objects(store, &format!("repositories/{repository}/_manifests")).await {
        if !is_tombstone(store.get(&key).await.unwrap().bytes.len() as u64) {
            let hex = key.as_str().rsplit('/').next().unwrap();
            found.push(format!("sha256:{hex}").parse().unwrap());
        }
    }
    found
}

pub(super) fn sorted(digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
    let mut digests: Vec<_> = digests.into_iter().collect();
    digests.sort();
    digests
}

pub(super) fn image(layer: &Bytes, subject: Option<&Digest>) -> Bytes {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::IMAGE,
        "config": { "mediaType": "application/x", "digest": sha256(b"{}"), "size": 2 },
        "layers": [{ "mediaType": "application/x", "digest": sha256(layer), "size": layer.len() }],
    });
    if let Some(subject) = subject {
        manifest["subject"] = json!({ "mediaType": MediaType::IMAGE, "digest": subject, "size": 1 });
    }
    manifest.to_string().into()
}

pub(super) fn index(children: &[&Digest]) -> Bytes {
    let entry = |digest: &&Digest| json!({ "mediaType": MediaType::IMAGE, "digest": digest, "size": 1 });
    let manifests: Vec<Value> = children.iter().map(entry).collect();
    json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": manifests }).to_string().into()
}

/// Pushes a manifest by a tag, or by its digest.
pub(super) async fn put(
    registry: &Registry,
    repository: &str,
    tag: Option<&str>,
    manifest: &Bytes,
) -> Result<Digest> {
    let digest = sha256(manifest);
    let reference = tag.map_or_else(|| Reference::Digest(digest.clone()), |tag| tag.parse().unwrap());
    registry.push_manifest(&name(repository), &reference, &[], None, manifest.clone()).await?;
    Ok(digest)
}

/// Pushes an image of so many bytes by its digest, or about another one.
pub(super) async fn put_image(
    registry: &Registry,
    repository: &str,
    size: usize,
    subject: Option<&Digest>,
) -> Digest {
    let layer = sample(size);
    for blob in [&layer, &Bytes::from_static(b"{}")] {
        registry.push(repository, blob).await.unwrap();
    }
    put(registry, repository, None, &image(&layer, subject)).await.unwrap()
}

#[tokio::test]
async fn of_the_tags_the_last_ones_stay_and_images_without_one_go() {
    let store = memory();
    let keep_two = RetentionRule { keep: patterns(&["latest"]), keep_last: Some(2), ..rule() };
    let registry = registry(&store, keep_two);
    for number in 0..5 {
        for repository in ["a", "other/a"] {
            registry.push_image(repository, &format!("v{number}"), &sample(5_000 + number)).await.unwrap();
        }
        later().await;
    }
    registry.push_image("a", "latest", &sample(5_000)).await.unwrap();
    // To push a tag again makes it a late one.
    registry.push_image("a", "v1", &sample(5_001)).await.unwrap();
    collect(&registry).await;
    assert_eq!(tags(&registry, "a").await, ["latest", "v1", "v4"]);
    assert_eq!(tags(&registry, "other/a").await, ["v0", "v1", "v2", "v3", "v4"]);
    assert_eq!(manifests(&store, "a").await.len(), 3);
    assert_eq!(manifests(&store, "other/a").await.len(), 5);
    for (number, there) in [(1, true), (2, false), (3, false), (4, true)] {
        let layer = sample(5_000 + number);
        assert_eq!(registry.pull("a", &sha256(&layer)).await.ok(), there.then_some(layer), "{number}");
    }
}

#[tokio::test]
async fn a_tag_stays_for_the_time_that_its_rule_gives_it() {
    let store = memory();
    let registry = registry(&store, RetentionRule { keep_within: Some(Duration::from_hours(24)), ..rule() });
    let digest = registry.push_image("a", "new", &sample(500)).await.unwrap();
    // Nobody pushes into the past, so it is written as it would stand there: the revision says when.
    for (tag, hours) in [("old", 25), ("late", 23)] {
        let then = std::time::SystemTime::now() - Duration::from_hours(hours);
        let then = then.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let hex = format!("{then:012x}");
        let revision = format!("{}-{}-7000-8000-000000000001", &hex[..8], &hex[8..]);
        let record = json!({ "version": 1, "revision": revision, "digest": digest }).to_string();
        let key = Key::parse(format!("repositories/a/_tags/{tag}")).unwrap();
        store.put(&key, record.into(), Condition::None).await.unwrap();
    }
    collect(&registry).await;
    assert_eq!(tags(&registry, "a").await, ["late", "new"]);
}

#[tokio::test]
async fn what_an_index_lists_and_what_is_about_an_image_stay_and_go_with_it() {
    let store = memory();
    let registry = with_grace(&store, keeping(&["keep*"]), Duration::ZERO);
    let mut images = Vec::new();
    for (tag, first) in [("keep", 500), ("drop", 600)] {
        let child = put_image(&registry, "a", first, None).await;
        let nested = put(&registry, "a", None, &index(&[&child])).await.unwrap();
        let top = put(&registry, "a", Some(tag), &index(&[&nested, &sha256(b"not there")])).await.unwrap();
        let of_child = put_image(&registry, "a", first + 1, Some(&child)).await;
        let of_that = put_image(&registry, "a", first + 2, Some(&of_child)).await;
        images.push([child, nested, top, of_child, of_that]);
    }
    // About nothing that is there.
    put_image(&registry, "a", 700, Some(&sha256(b"nothing"))).await;
    collect(&registry).await;
    let [kept, dropped] = &images[..] else { unreachable!() };
    assert_eq!(sorted(manifests(&store, "a").await), sorted(kept.iter().cloned()));
    let listed = registry.referrers(&name("a"), &kept[0], None, 10, None).await.unwrap();
    assert_eq!(listed.referrers.len(), 1);
    for subject in [&dropped[0], &dropped[3], &sha256(b"nothing")] {
        let listed = registry.referrers(&name("a"), subject, None, 10, None).await.unwrap();
        assert!(listed.referrers.is_empty());
    }
    assert_eq!(registry.pull("a", &sha256(&sample(502))).await.unwrap(), sample(502));
    assert!(registry.pull("a", &sha256(&sample(602))).await.is_err());
}

#[tokio::test]
async fn a_signature_in_a_tag_goes_with_its_image() {
    let store = memory();
    let registry = registry(&store, RetentionRule { keep_last: Some(1), ..rule() });
    let mut images = Vec::new();
    for (tag, size) in [("v1", 500), ("v2", 600)] {
        let digest = registry.push_image("a", tag, &sample(size)).await.unwrap();
        registry.push_image("a", &format!("sha256-{}.sig", digest.hex()), &sample(size + 1)).await.unwrap();
        images.push(digest);
        later().await;
    }
    let elsewhere = format!("sha256-{}.sig", sha256(b"in another repository").hex());
    registry.push_image("a", &elsewhere, &sample(700)).await.unwrap();
    collect(&registry).await;
    let mut expected = vec![elsewhere, format!("sha256-{}.sig", images[1].hex()), "v2".to_owned()];
    expected.sort();
    assert_eq!(tags(&registry, "a").await, expected);
    assert_eq!(manifests(&store, "a").await.len(), 3);
}

#[tokio::test]
async fn a_signature_that_comes_ahead_of_an_image_that_had_gone_waits_for_it() {
    let store = memory();
    let hasty = registry(&store, keeping(&["v*"]));
    let digest = hasty.push_image("a", "old", &sample(1000)).await.unwrap();
    collect(&hasty).await;
    assert!(!has(&hasty, "a", &digest).await);
    let signature = format!("sha256-{}.sig", digest.hex());
    hasty.push_image("a", &signature, &sample(2000)).await.unwrap();
    collect_once(&with_grace(&store, keeping(&["v*"]), Duration::from_hours(1))).await;
    assert_eq!(tags(&hasty, "a").await, [signature]);
    collect(&hasty).await;
    assert!(tags(&hasty, "a").await.is_empty(), "the image has not come");
}

#[tokio::test]
async fn nothing_without_a_tag_goes_before_its_time() {
    let store = memory();
    let waiting = RetentionRule { untagged_after: Duration::from_hours(1), ..keeping(&["none"]) };
    let registry = registry(&store, waiting);
    registry.push_image("a", "v1", &sample(500)).await.unwrap();
    for _ in 0..4 {
        collect_once(&registry).await;
    }
    let told = collect_once(&registry).await;
    assert_eq!((told.manifests.condemned.count, told.manifests.deleted.count), (1, 0));
    assert!(tags(&registry, "a").await.is_empty());
    // A rule cannot say less than the grace, in which what is pushed is not looked at either.
    let store = memory();
    let patient = with_grace(&store, keeping(&["none"]), Duration::from_hours(1));
    put_image(&patient, "a", 500, None).await;
    for _ in 0..4 {
        assert_eq!(collect_once(&patient).await, Collected::default());
    }
    assert_eq!(manifests(&store, "a").await, [sha256(&image(&sample(500), None))]);
}

#[tokio::test]
async fn who_asks_for_an_image_can_count_on_it() {
    let store = memory();
    let registry = registry(&store, rule());
    let digest = put_image(&registry, "a", 500, None).await;
    for _ in 0..5 {
        let condemned = collect_once(&registry).await.manifests;
        assert_eq!((condemned.condemned.count, condemned.deleted.count), (1, 0));
        assert!(has(&registry, "a", &digest).await);
    }
    collect_once(&registry).await;
    assert_eq!(collect_once(&registry).await.manifests.deleted.count, 1);
    assert!(!has(&registry, "a", &digest).await);
    // And it can be pushed again.
    assert_eq!(put_image(&registry, "a", 500, None).await, digest);
    assert!(has(&registry, "a", &digest).await);
}

#[tokio::test]
async fn a_look_changes_nothing_and_tells_each_tag_and_image_that_would_go() {
    let store = memory();
    let registry = registry(&store, RetentionRule { keep_last: Some(1), ..rule() });
    let mut digests = Vec::new();
    for (tag, size) in [("v1", 50_000), ("v2", 500), ("v3", 600)] {
        digests.push(registry.push_image("a", tag, &sample(size)).await.unwrap());
        later().await;
    }
    let before = objects(&store, "repositories").await;
    let told = registry.collect(true).await.unwrap();
    assert_eq!(registry.collect(true).await.unwrap(), told);
    assert_eq!(objects(&store, "repositories").await, before);
    assert_eq!((told.tags.deleted.count, told.manifests.deleted.count, told.not_told), (2, 2, 0));
    // The blobs that only they have, and the data of these.
    assert_eq!((told.members.deleted.count, told.blobs.deleted.bytes), (2, 50_500));
    assert!(told.data.deleted.bytes >= 50_000);
    let told_tags: Vec<_> = told.expired.iter().filter_map(|expired| expired.tag.clone()).collect();
    assert_eq!(told_tags, ["v2", "v1"]);
    let images = told.expired.iter().filter(|expired| expired.tag.is_none());
    assert_eq!(sorted(images.clone().map(|expired| expired.digest.clone())), sorted(digests[..2].to_vec()));
    assert!(
        images
            .clone()
            .any(|expired| expired.bytes > 50_000 && expired.rule == 1 && expired.repository == "a")
    );
    let mut gone = Vec::new();
    for _ in 0..6 {
        gone.extend(collect_once(&registry).await.expired);
    }
    assert_eq!(gone, told.expired);
}

#[tokio::test]
async fn of_a_repository_with_a_tag_or_a_manifest_that_cannot_be_read_no_image_goes() {
    for folder in ["_tags/kept", "_manifests/sha256"] {
        let store = memory();
        let registry = registry(&store, keeping(&["kept"]));
        for (tag, size) in [("kept", 500), ("other", 600)] {
            registry.push_image("a", tag, &sample(size)).await.unwrap();
            registry.push_image("b", tag, &sample(size)).await.unwrap();
        }
        let keys = objects(&store, "repositories/a").await;
        let key = keys.iter().find(|key| key.as_str().contains(folder)).unwrap();
        store.put(key, Bytes::from_static(b"damaged"), Condition::None).await.unwrap();
        collect(&registry).await;
        for size in [500, 600] {
            assert_eq!(registry.pull("a", &sha256(&sample(size))).await.unwrap(), sample(size), "{folder}");
        }
        assert_eq!(tags(&registry, "b").await, ["kept"], "others go on");
        assert_eq!(manifests(&store, "b").await.len(), 1);
    }
}
