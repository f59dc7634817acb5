//! Manifests, tags and what deleting one does to the other.

use std::sync::Arc;

use dvcr::oci::{Reference, Tag};
use dvcr::registry::Error;
use futures::future::join_all;

use super::registry_under_test::{Client, memory, name, registry, sample};

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

#[tokio::test]
async fn deleting_a_manifest_deletes_its_tags_and_no_others() {
    let store = memory();
    let registry = registry(&store);
    let old = registry.push_image("a", "old", &sample(500)).await.unwrap();
    let bytes = registry.manifest(&name("a"), &Reference::Digest(old.clone())).await.unwrap().bytes;
    for moved in ["also", "moved"] {
        registry
            .push_manifest(&name("a"), &Reference::Tag(tag(moved)), &[], None, bytes.clone())
            .await
            .unwrap();
    }
    let new = registry.push_image("a", "moved", &sample(600)).await.unwrap();
    registry.delete_manifest(&name("a"), &old).await.unwrap();
    assert_eq!(registry.tags(&name("a"), 10, None).await.unwrap().entries, [tag("moved")]);
    let moved = registry.manifest(&name("a"), &Reference::Tag(tag("moved"))).await.unwrap();
    assert_eq!(moved.digest, new);
}

#[tokio::test]
async fn a_tag_that_was_deleted_with_its_manifest_can_be_pushed_again() {
    let store = memory();
    let registry = registry(&store);
    let digest = registry.push_image("a", "v1", &sample(500)).await.unwrap();
    registry.delete_manifest(&name("a"), &digest).await.unwrap();
    let gone = registry.delete_tag(&name("a"), &tag("v1")).await;
    assert!(matches!(gone, Err(Error::ManifestUnknown { .. })), "{gone:?}");
    assert_eq!(registry.push_image("a", "v1", &sample(500)).await.unwrap(), digest);
    assert_eq!(registry.tags(&name("a"), 10, None).await.unwrap().entries, [tag("v1")]);
}

/// The tag moves from an old manifest to a new one while the old one is deleted on another replica. Whatever
/// the order, the tag that was acknowledged is there.
#[tokio::test]
async fn a_tag_that_moves_away_from_a_manifest_survives_its_deletion() {
    for _ in 0..100 {
        let store = memory();
        let replicas = [registry(&store), registry(&store)];
        let old = replicas[0].push_image("a", "latest", &sample(500)).await.unwrap();
        let new = replicas[0].push_image("a", "new", &sample(600)).await.unwrap();
        let bytes = replicas[0].manifest(&name("a"), &Reference::Digest(new.clone())).await.unwrap().bytes;
        let (repository, latest) = (name("a"), Reference::Tag(tag("latest")));
        let (moved, deleted) = tokio::join!(
            replicas[0].push_manifest(&repository, &latest, &[], None, bytes),
            replicas[1].delete_manifest(&repository, &old),
        );
        moved.unwrap();
        deleted.unwrap();
        assert_eq!(replicas[1].manifest(&repository, &latest).await.unwrap().digest, new);
    }
}

#[tokio::test]
async fn of_tags_pushed_at_once_one_is_kept_and_whole() {
    let store = memory();
    let replicas: Vec<_> = (0..8).map(|_| registry(&store)).collect();
    let layers: Vec<_> = (0..8).map(|i| sample(500 + i)).collect();
    let pushes = replicas.iter().zip(&layers).map(|(replica, layer)| replica.push_image("a", "v1", layer));
    let digests: Vec<_> = join_all(pushes).await.into_iter().map(Result::unwrap).collect();
    let kept = replicas[0].manifest(&name("a"), &Reference::Tag(tag("v1"))).await.unwrap();
    assert!(digests.contains(&kept.digest));
}

#[tokio::test]
async fn a_blob_is_read_only_where_it_belongs() {
    let store = memory();
    let registry = Arc::new(registry(&store));
    let digest = registry.push("a", &sample(9_000)).await.unwrap();
    let elsewhere = registry.pull("b", &digest).await;
    assert!(matches!(elsewhere, Err(Error::BlobUnknown { .. })), "{elsewhere:?}");
    assert!(!registry.mount(&name("b"), &digest, Some(&name("c"))).await.unwrap());
    assert!(registry.mount(&name("b"), &digest, Some(&name("a"))).await.unwrap());
    registry.delete_blob(&name("a"), &digest).await.unwrap();
    assert_eq!(registry.pull("b", &digest).await.unwrap(), sample(9_000));
}
