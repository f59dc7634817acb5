//! Kinds that documents write otherwise: the same objects, by another path and with the kind that was sent.

use serde_json::json;

use super::support::{ALIASED, APPLY_PATCH, Fixture, IMAGES, MERGE_PATCH, TABLE, at, image};

#[tokio::test]
async fn an_object_has_the_kind_of_the_path_by_which_one_asks_for_it() {
    let server = Fixture::new();
    let mut other = image("a");
    other["kind"] = json!("VirtualImages");
    server.post(IMAGES, &other).await.fails(422, "Invalid");
    assert_eq!(server.post(ALIASED, &other).await.ok()["kind"], "VirtualImages");
    assert_eq!(server.get(&at(IMAGES, "a")).await.ok()["kind"], "VirtualImage");
    assert_eq!(server.get(&at(ALIASED, "a")).await.ok()["kind"], "VirtualImages");
    let list = server.get(ALIASED).await.ok();
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (&json!("VirtualImagesList"), &json!("VirtualImages"))
    );
    assert_eq!(server.get(IMAGES).await.ok()["items"][0]["kind"], "VirtualImage");
    assert_eq!(server.get_as(ALIASED, TABLE).await.ok()["rows"][0]["object"]["metadata"]["name"], "a");
}

#[tokio::test]
async fn what_is_changed_by_one_path_is_changed_by_the_other() {
    let server = Fixture::new();
    let mut other = image("a");
    other["kind"] = json!("VirtualImages");
    let made = server.patch(&format!("{}?fieldManager=me", at(ALIASED, "a")), APPLY_PATCH, &other).await.ok();
    let mut events = server.watch(&format!("{IMAGES}?watch=1")).await;
    assert_eq!(events.next().await.unwrap()["object"]["kind"], "VirtualImage");
    let change = json!({ "kind": "VirtualImages", "metadata": { "labels": { "a": "b" } } });
    let changed = server.patch(&at(ALIASED, "a"), MERGE_PATCH, &change).await.ok();
    assert_eq!(
        (&changed["kind"], &changed["metadata"]["uid"]),
        (&json!("VirtualImages"), &made["metadata"]["uid"])
    );
    let seen = events.next().await.unwrap();
    assert_eq!(
        (&seen["object"]["kind"], &seen["object"]["metadata"]["labels"]["a"]),
        (&json!("VirtualImage"), &json!("b"))
    );
    assert_eq!(seen["object"]["metadata"]["generation"], 1, "a label is no change of the spec");
    server.delete(&at(ALIASED, "a")).await.ok();
    server.get(&at(IMAGES, "a")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn both_kinds_can_be_discovered_and_lead_to_their_paths() {
    let server = Fixture::new();
    let found = server.get("/apis/virtualization.deckhouse.io/v1alpha2").await.ok();
    let kind = |plural: &str| {
        let resources = found["resources"].as_array().unwrap();
        resources.iter().find(|resource| resource["name"] == plural).unwrap()["kind"].clone()
    };
    assert_eq!(
        (kind("virtualimages"), kind("virtualimageses")),
        (json!("VirtualImage"), json!("VirtualImages"))
    );
}
