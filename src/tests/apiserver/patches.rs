use serde_json::{Value, json};

use super::support::{
    APPLY_PATCH, Fixture, IMAGES, JSON_PATCH, MERGE_PATCH, SECRETS, STRATEGIC_PATCH, at, image,
};

fn labelled(value: &str) -> Value {
    let mut object = image("a");
    object["metadata"]["labels"] = json!({ "team": value });
    object
}

#[tokio::test]
async fn a_json_patch_happens_as_a_whole_or_not_at_all() {
    let server = Fixture::new();
    let object = server.post(IMAGES, &image("a")).await.ok();
    let path = at(IMAGES, "a");
    let change = json!([
        { "op": "test", "path": "/spec/storage", "value": "ContainerRegistry" },
        { "op": "replace", "path": "/spec/storage", "value": "Kubernetes" },
    ]);
    assert_eq!(server.patch(&path, JSON_PATCH, &change).await.ok()["spec"]["storage"], "Kubernetes");
    let before = server.get(&path).await.ok();
    server.patch(&path, JSON_PATCH, &change).await.fails(422, "Invalid");
    assert_eq!(server.get(&path).await.ok(), before);
    assert_eq!(before["metadata"]["uid"], object["metadata"]["uid"]);
}

#[tokio::test]
async fn custom_objects_know_no_strategic_merge() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let answer = server.patch(&at(IMAGES, "a"), STRATEGIC_PATCH, &json!({})).await;
    answer.fails(415, "UnsupportedMediaType");
    server.post(SECRETS, &json!({ "metadata": { "name": "s", "finalizers": ["a/b"] } })).await.ok();
    let patch = json!({ "metadata": { "finalizers": ["c/d"] } });
    let patched = server.patch(&at(SECRETS, "s"), STRATEGIC_PATCH, &patch).await.ok();
    assert_eq!(patched["metadata"]["finalizers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn patches_without_a_version_never_conflict() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let path = at(IMAGES, "a");
    let patches: Vec<Value> =
        (0..50).map(|n| json!({ "metadata": { "labels": { format!("l{n}"): "x" } } })).collect();
    let answers =
        futures::future::join_all(patches.iter().map(|patch| server.patch(&path, MERGE_PATCH, patch))).await;
    for answer in answers {
        answer.ok();
    }
    assert_eq!(server.get(&path).await.ok()["metadata"]["labels"].as_object().unwrap().len(), 50);
}

#[tokio::test]
async fn a_patch_with_a_version_is_for_that_version() {
    let server = Fixture::new();
    let object = server.post(IMAGES, &image("a")).await.ok();
    let path = at(IMAGES, "a");
    let version = &object["metadata"]["resourceVersion"];
    let change =
        |value: &str| json!({ "metadata": { "resourceVersion": version, "labels": { "a": value } } });
    server.patch(&path, MERGE_PATCH, &change("1")).await.ok();
    server.patch(&path, MERGE_PATCH, &change("2")).await.fails(409, "Conflict");
}

#[tokio::test]
async fn what_never_changes_is_not_patched() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let path = at(IMAGES, "a");
    for (metadata, status, reason) in [
        (json!({ "name": "b" }), 400, "BadRequest"),
        (json!({ "namespace": "b" }), 400, "BadRequest"),
        (json!({ "uid": "b" }), 422, "Invalid"),
        (json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }), 422, "Invalid"),
        (json!({ "labels": { "a": 1 } }), 400, "BadRequest"),
        (json!({ "labels": { "a b": "c" } }), 422, "Invalid"),
    ] {
        let change = json!({ "metadata": metadata });
        server.patch(&path, MERGE_PATCH, &change).await.fails(status, reason);
    }
    server.patch(&path, MERGE_PATCH, &json!({ "kind": "Secret" })).await.fails(422, "Invalid");
    server.patch(&path, MERGE_PATCH, &json!([])).await.fails(400, "BadRequest");
    let strict = format!("{path}?fieldValidation=Strict");
    server.patch(&strict, MERGE_PATCH, &json!({ "spec": { "x": 1 } })).await.fails(422, "Invalid");
}

#[tokio::test]
async fn what_is_applied_is_created_owned_and_defended() {
    let server = Fixture::new();
    let path = at(IMAGES, "a");
    let by = |manager: &str| format!("{path}?fieldManager={manager}");
    let created = server.patch(&by("one"), APPLY_PATCH, &labelled("red")).await;
    assert_eq!(created.status, 201);
    let created = created.ok();
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    server.wait(60);
    assert_eq!(
        server.patch(&by("one"), APPLY_PATCH, &labelled("red")).await.ok(),
        created,
        "nothing changed"
    );

    let answer = server.patch(&by("two"), APPLY_PATCH, &labelled("blue")).await;
    assert_eq!(answer.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(
        answer.fails(409, "Conflict"),
        r#"Apply failed with 1 conflict: conflict with "one": .metadata.labels.team"#
    );
    let forced = format!("{}&force=true", by("two"));
    let forced = server.patch(&forced, APPLY_PATCH, &labelled("blue")).await.ok();
    assert_eq!(forced["metadata"]["labels"]["team"], "blue");
    let without = server.patch(&by("two"), APPLY_PATCH, &image("a")).await.ok();
    assert_eq!(without["metadata"].get("labels"), None, "what one applies no longer goes");
}

#[tokio::test]
async fn yaml_can_be_applied() {
    let server = Fixture::new();
    let yaml = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData: {a: b}\n";
    let request = axum::http::Request::patch(format!("{SECRETS}/s?fieldManager=m"))
        .header("content-type", APPLY_PATCH)
        .body(axum::body::Body::from(yaml))
        .unwrap();
    assert_eq!(server.send(request).await.ok()["data"], json!({ "a": "Yg==" }));
}

#[tokio::test]
async fn apply_has_rules_of_its_own() {
    let server = Fixture::new();
    let path = at(IMAGES, "a");
    server.patch(&path, APPLY_PATCH, &image("a")).await.fails(422, "Invalid");
    let by = format!("{path}?fieldManager=m");
    server.patch(&by, APPLY_PATCH, &image("b")).await.fails(400, "BadRequest");
    let mut object = image("a");
    object["metadata"]["managedFields"] = json!([]);
    server.patch(&by, APPLY_PATCH, &object).await.fails(400, "BadRequest");
    let mut object = image("a");
    object["spec"]["colour"] = json!("red");
    let answer = server.patch(&by, APPLY_PATCH, &object).await;
    assert_eq!(answer.status, 500);
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.ends_with(".spec.colour: field not declared in schema"), "{message}");
    let status = format!("{path}/status?fieldManager=m");
    server.patch(&status, APPLY_PATCH, &image("a")).await.fails(404, "NotFound");
    let forced = format!("{path}?force=true");
    server.patch(&forced, MERGE_PATCH, &json!({})).await.fails(422, "Invalid");
}

#[tokio::test]
async fn a_status_is_applied_by_itself() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let mut object = image("a");
    object["status"] = json!({ "phase": "Pending" });
    object["spec"]["storage"] = json!("Kubernetes");
    let path = format!("{IMAGES}/a/status?fieldManager=m&force=true");
    let applied = server.patch(&path, APPLY_PATCH, &object).await.ok();
    assert_eq!(applied["status"]["phase"], "Pending");
    assert_eq!(applied["spec"]["storage"], "ContainerRegistry");
    let owners = applied["metadata"]["managedFields"].as_array().unwrap();
    let fields = owners.iter().find(|owner| owner["manager"] == "m").unwrap();
    assert_eq!(fields["subresource"], "status");
    assert_eq!(fields["fieldsV1"], json!({ "f:status": { "f:phase": {} } }));
}
