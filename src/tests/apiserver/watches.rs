use std::time::Duration;

use serde_json::json;

use super::support::{Fixture, IMAGES, MERGE_PATCH, TABLE, at, event, image};

#[tokio::test]
async fn a_watch_shows_what_there_is_and_then_what_happens() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let mut events = server.watch(&format!("{IMAGES}?watch=true")).await;
    assert_eq!(events.named().await, event("ADDED", "a"));
    server.post(IMAGES, &image("b")).await.ok();
    server.patch(&at(IMAGES, "b"), MERGE_PATCH, &json!({ "spec": { "storage": "Kubernetes" } })).await.ok();
    let last = server.delete(&at(IMAGES, "b")).await.ok();
    assert_eq!(events.named().await, event("ADDED", "b"));
    assert_eq!(events.named().await, event("MODIFIED", "b"));
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["metadata"]["uid"], last["details"]["uid"]);
}

#[tokio::test]
async fn a_watch_goes_on_where_another_one_ended() {
    let server = Fixture::new();
    let a = server.post(IMAGES, &image("a")).await.ok();
    server.post(IMAGES, &image("b")).await.ok();
    let version = a["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = server.watch(&format!("{IMAGES}?watch=true&resourceVersion={version}")).await;
    assert_eq!(events.named().await, event("ADDED", "b"));
}

#[tokio::test]
async fn a_selected_object_comes_and_goes_as_it_matches() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let mut events = server.watch(&format!("{IMAGES}?watch=1&labelSelector=team%3Dx")).await;
    let label = async |value: &str| {
        let patch = json!({ "metadata": { "labels": { "team": value } } });
        server.patch(&at(IMAGES, "a"), MERGE_PATCH, &patch).await.ok()
    };
    label("x").await;
    assert_eq!(events.named().await, event("ADDED", "a"));
    let gone = label("y").await;
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["metadata"]["labels"]["team"], "x", "as it was when it matched");
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], gone["metadata"]["resourceVersion"]);
    label("z").await;
    label("x").await;
    assert_eq!(events.named().await, event("ADDED", "a"));
}

#[tokio::test]
async fn one_object_can_be_watched_by_its_name() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let mut events = server.watch(&format!("{IMAGES}?watch=1&fieldSelector=metadata.name%3Db")).await;
    server.post(IMAGES, &image("b")).await.ok();
    assert_eq!(events.named().await, event("ADDED", "b"));
}

#[tokio::test]
async fn a_streaming_list_says_where_it_ends() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let path = format!(
        "{IMAGES}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = server.watch(&path).await;
    assert_eq!(events.named().await, event("ADDED", "a"));
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["kind"], "VirtualImage");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.post(IMAGES, &image("b")).await.ok();
    assert_eq!(events.named().await, event("ADDED", "b"));
    server.get(&format!("{IMAGES}?watch=1&sendInitialEvents=true")).await.fails(422, "Invalid");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_tell_how_far_a_watch_has_got() {
    let server = Fixture::new();
    let path = format!("{IMAGES}?watch=1&allowWatchBookmarks=true&timeoutSeconds=90");
    let mut events = server.watch(&path).await;
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(61)).await;
        let bookmark = events.next().await.unwrap();
        assert_eq!(bookmark["type"], "BOOKMARK");
        assert!(bookmark["object"]["metadata"]["resourceVersion"].is_string());
    }
    assert!(events.has_ended().await, "after its timeout");
}

#[tokio::test]
async fn a_watch_from_too_long_ago_is_told_to_list_again() {
    let server = Fixture::with_window(Some(2));
    for name in ["a", "b", "c", "d"] {
        server.post(IMAGES, &image(name)).await.ok();
    }
    for version in [1, 1000] {
        let mut events = server.watch(&format!("{IMAGES}?watch=1&resourceVersion={version}")).await;
        let error = events.next().await.unwrap();
        assert_eq!(error["type"], "ERROR");
        assert_eq!((&error["object"]["code"], &error["object"]["reason"]), (&json!(410), &json!("Expired")));
        assert!(events.has_ended().await);
    }
}

#[tokio::test]
async fn a_watcher_that_is_too_slow_is_dropped_and_not_waited_for() {
    let server = Fixture::with_window(Some(5));
    let mut events = server.watch(&format!("{IMAGES}?watch=1")).await;
    for n in 0..10 {
        server.post(IMAGES, &image(&format!("a{n}"))).await.ok();
    }
    assert_eq!(events.next().await.unwrap()["object"]["reason"], "Expired");
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let server = Fixture::new();
    let events = server.watch(&format!("{IMAGES}?watch=1")).await;
    server.server.stop();
    assert!(events.has_ended().await);
}

#[tokio::test]
async fn a_watch_that_always_has_something_to_say_ends_as_well() {
    let server = Fixture::new();
    for n in 0..5 {
        server.post(IMAGES, &image(&format!("a{n}"))).await.ok();
    }
    let events = server.watch(&format!("{IMAGES}?watch=1")).await;
    server.server.stop();
    assert!(events.has_ended().await);
}

#[tokio::test]
async fn a_table_tells_its_columns_once() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let mut events = server.watch_as(&format!("{IMAGES}?watch=1"), TABLE).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    server.post(IMAGES, &image("b")).await.ok();
    let second = events.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], json!(null));
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}
