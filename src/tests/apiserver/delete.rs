use serde_json::json;

use super::support::{Fixture, IMAGES, JSON, MERGE_PATCH, NAMESPACES, SECRETS, at, event, image};

#[tokio::test]
async fn what_nobody_holds_is_gone_at_once() {
    let server = Fixture::new();
    let object = server.post(IMAGES, &image("a")).await.ok();
    let status = server.delete(&at(IMAGES, "a")).await.ok();
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["name"], "a");
    assert_eq!(status["details"]["uid"], object["metadata"]["uid"]);
    server.get(&at(IMAGES, "a")).await.fails(404, "NotFound");
    server.delete(&at(IMAGES, "a")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let server = Fixture::new();
    let mut object = image("a");
    object["metadata"]["finalizers"] = json!(["example.com/a"]);
    server.post(IMAGES, &object).await.ok();
    let path = at(IMAGES, "a");
    let marked = server.delete(&path).await.ok();
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(server.delete(&path).await.ok(), marked, "once is enough");
    let more = json!({ "metadata": { "finalizers": ["example.com/a", "example.com/b"] } });
    server.patch(&path, MERGE_PATCH, &more).await.fails(422, "Invalid");

    let version = marked["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = server.watch(&format!("{IMAGES}?watch=true&resourceVersion={version}")).await;
    server.patch(&path, MERGE_PATCH, &json!({ "metadata": { "finalizers": null } })).await.ok();
    assert_eq!(events.named().await, event("DELETED", "a"));
    server.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn preconditions_keep_another_object_of_that_name() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    for preconditions in [json!({ "uid": "x" }), json!({ "resourceVersion": "1" })] {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions });
        server.write("DELETE", &at(IMAGES, "a"), JSON, &options).await.fails(409, "Conflict");
    }
    let options = json!({ "dryRun": ["All"], "propagationPolicy": "Foreground", "gracePeriodSeconds": 0 });
    server.write("DELETE", &at(IMAGES, "a"), JSON, &options).await.ok();
    server.get(&at(IMAGES, "a")).await.ok();
}

#[tokio::test]
async fn a_selection_is_deleted_together() {
    let server = Fixture::new();
    for (name, team) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = image(name);
        object["metadata"]["labels"] = json!({ "team": team });
        server.post(IMAGES, &object).await.ok();
    }
    let deleted = server.delete(&format!("{IMAGES}?labelSelector=team%3Dx")).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = server.get(IMAGES).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_namespace_goes_with_all_that_is_in_it_and_waits_for_finalizers() {
    let server = Fixture::new();
    let here = |path: &str| path.replace("default", "team");
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok();
    server.post(&here(SECRETS), &json!({ "metadata": { "name": "s" } })).await.ok();
    let mut held = image("a");
    held["metadata"]["finalizers"] = json!(["example.com/a"]);
    server.post(&here(IMAGES), &held).await.ok();

    let marked = server.delete(&at(NAMESPACES, "team")).await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    server.until(&at(&here(SECRETS), "s"), 404.try_into().unwrap()).await;
    let answer = server.post(&here(IMAGES), &image("b")).await;
    assert_eq!(answer.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    answer.fails(403, "Forbidden");
    server.get(&at(NAMESPACES, "team")).await.ok();

    let path = at(&here(IMAGES), "a");
    assert!(server.get(&path).await.ok()["metadata"]["deletionTimestamp"].is_string());
    server.patch(&path, MERGE_PATCH, &json!({ "metadata": { "finalizers": [] } })).await.ok();
    server.until(&at(NAMESPACES, "team"), 404.try_into().unwrap()).await;
}

#[tokio::test]
async fn the_default_namespace_stays() {
    let server = Fixture::new();
    let message = server.delete(&at(NAMESPACES, "default")).await.fails(403, "Forbidden");
    assert_eq!(message, r#"namespaces "default" is forbidden: this namespace may not be deleted"#);
}
