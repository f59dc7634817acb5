use axum::http::header::WARNING;
use serde_json::{Value, json};

use super::support::{Fixture, GROUP, IMAGES, MERGE_PATCH, NAMESPACES, SECRETS, STRATEGIC_PATCH, at, image};

#[tokio::test]
async fn an_object_that_is_created_has_all_that_the_server_gives_it() {
    let server = Fixture::new();
    let created = server.post(IMAGES, &image("a")).await.ok();
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Update");
    assert_eq!(created["spec"]["storage"], "ContainerRegistry", "a default of the schema");
    assert_eq!(server.get(&at(IMAGES, "a")).await.ok(), created);
}

#[tokio::test]
async fn what_is_there_is_not_created_again() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let answer = server.post(IMAGES, &image("a")).await;
    assert_eq!(answer.body["details"]["kind"], "virtualimages");
    assert_eq!(
        answer.fails(409, "AlreadyExists"),
        r#"virtualimages.virtualization.deckhouse.io "a" already exists"#
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let server = Fixture::new();
    let message = server.get(&at(IMAGES, "a")).await.fails(404, "NotFound");
    assert_eq!(message, r#"virtualimages.virtualization.deckhouse.io "a" not found"#);
    let message =
        server.post(&IMAGES.replace("default", "nowhere"), &image("a")).await.fails(404, "NotFound");
    assert_eq!(message, r#"namespaces "nowhere" not found"#);
    let message = server.get("/apis/example.com/v1/widgets").await.fails(404, "NotFound");
    assert_eq!(message, "the server could not find the requested resource");
}

#[tokio::test]
async fn an_object_without_a_namespace_is_not_in_one() {
    let server = Fixture::new();
    let mut object = image("a");
    object["kind"] = json!("ClusterVirtualImage");
    let path = format!("{GROUP}/clustervirtualimages");
    server.post(&path, &object).await.ok();
    assert_eq!(server.get(&at(&path, "a")).await.ok()["metadata"].get("namespace"), None);
    let nowhere = format!("{GROUP}/namespaces/default/clustervirtualimages");
    server.get(&nowhere).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_replacement_must_be_of_the_newest_version() {
    let server = Fixture::new();
    let first = server.post(IMAGES, &image("a")).await.ok();
    let mut second = first.clone();
    second["metadata"]["labels"] = json!({ "a": "b" });
    let second = server.put(&at(IMAGES, "a"), &second).await.ok();
    assert_eq!(second["metadata"]["generation"], 1);
    let message = server.put(&at(IMAGES, "a"), &first).await.fails(409, "Conflict");
    assert!(message.ends_with("please apply your changes to the latest version and try again"), "{message}");
    server.put(&at(IMAGES, "a"), &image("a")).await.fails(422, "Invalid");

    let mut third = second.clone();
    third["spec"]["storage"] = json!("Kubernetes");
    third["metadata"]["creationTimestamp"] = json!("2000-01-01T00:00:00Z");
    let third = server.put(&at(IMAGES, "a"), &third).await.ok();
    assert_eq!(third["metadata"]["generation"], 2);
    assert_eq!(third["metadata"]["creationTimestamp"], second["metadata"]["creationTimestamp"]);
    assert_eq!(third["metadata"]["uid"], second["metadata"]["uid"]);
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_none() {
    let server = Fixture::new();
    let object = server.post(IMAGES, &image("a")).await.ok();
    server.wait(60);
    assert_eq!(server.put(&at(IMAGES, "a"), &object).await.ok(), object);
    assert_eq!(server.patch(&at(IMAGES, "a"), MERGE_PATCH, &json!({})).await.ok(), object);
}

#[tokio::test]
async fn the_status_is_changed_by_its_subresource_and_by_nothing_else() {
    let server = Fixture::new();
    let mut object = image("a");
    object["status"] = json!({ "phase": "Ready" });
    let created = server.post(IMAGES, &object).await.ok();
    assert_eq!(created.get("status"), None);
    let path = at(IMAGES, "a");
    let status = json!({ "status": { "phase": "Ready" }, "spec": { "storage": "Kubernetes" } });
    let main = server.patch(&path, MERGE_PATCH, &json!({ "status": { "phase": "Failed" } })).await.ok();
    assert_eq!(main.get("status"), None);
    let changed = server.patch(&format!("{path}/status"), MERGE_PATCH, &status).await.ok();
    assert_eq!(changed["status"], json!({ "phase": "Ready" }));
    assert_eq!(changed["spec"], created["spec"]);
    assert_eq!(changed["metadata"]["generation"], 1);
    assert_eq!(changed["metadata"]["managedFields"][1]["subresource"], "status");
    let main = server.patch(&path, MERGE_PATCH, &json!({ "spec": { "storage": "Kubernetes" } })).await.ok();
    assert_eq!(main["status"], changed["status"]);
}

#[tokio::test]
async fn an_object_that_breaks_rules_is_told_all_of_them() {
    let server = Fixture::new();
    let mut object = image("a");
    object["spec"] = json!({ "dataSource": { "type": "Magic", "http": { "url": "ftp://x" } } });
    let answer = server.post(IMAGES, &object).await;
    let fields: Vec<&Value> =
        answer.body["details"]["causes"].as_array().unwrap().iter().map(|cause| &cause["field"]).collect();
    assert!(fields.contains(&&json!("spec.dataSource.type")), "{fields:?}");
    assert!(fields.contains(&&json!("spec.dataSource.http.url")), "{fields:?}");
    let message = answer.fails(422, "Invalid");
    assert!(
        message.starts_with(r#"VirtualImage.virtualization.deckhouse.io "a" is invalid: ["#),
        "{message}"
    );

    object["spec"] = json!({ "dataSource": { "type": "HTTP" } });
    let message = server.post(IMAGES, &object).await.fails(422, "Invalid");
    assert!(message.contains("HTTP requires http"), "{message}");
}

#[tokio::test]
async fn rules_about_changes_hold() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let path = at(IMAGES, "a");
    let ready = json!({ "status": { "phase": "Ready" } });
    server.patch(&format!("{path}/status"), MERGE_PATCH, &ready).await.ok();
    let other = json!({ "spec": { "dataSource": { "http": { "url": "https://example.com/other" } } } });
    let message = server.patch(&path, MERGE_PATCH, &other).await.fails(422, "Invalid");
    assert!(message.contains("The data source of a ready image cannot be changed."), "{message}");
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_about_or_refused() {
    let server = Fixture::new();
    let mut object = image("a");
    object["spec"]["colour"] = json!("red");
    object["metadata"]["colour"] = json!("red");
    let strict = format!("{IMAGES}?fieldValidation=Strict");
    let message = server.post(&strict, &object).await.fails(400, "BadRequest");
    assert!(message.contains(r#"strict decoding error: unknown field "metadata.colour""#), "{message}");
    assert!(message.contains(r#"unknown field "spec.colour""#), "{message}");
    let answer = server.post(&format!("{IMAGES}?fieldValidation=Ignore"), &object).await;
    assert_eq!(answer.headers.get(WARNING), None);
    assert_eq!(answer.ok()["spec"].get("colour"), None);
    object["metadata"]["name"] = json!("b");
    let answer = server.post(IMAGES, &object).await;
    let warnings: Vec<_> =
        answer.headers.get_all(WARNING).iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(
        warnings,
        [r#"299 - "unknown field \"metadata.colour\"""#, r#"299 - "unknown field \"spec.colour\"""#]
    );
}

#[tokio::test]
async fn a_dry_run_does_everything_but_the_writing() {
    let server = Fixture::new();
    let dry = format!("{IMAGES}?dryRun=All");
    let created = server.post(&dry, &image("a")).await.ok();
    assert_eq!(created["spec"]["storage"], "ContainerRegistry");
    assert_eq!(created["metadata"].get("resourceVersion"), None);
    server.post(&dry, &json!({ "apiVersion": "v1" })).await.fails(400, "BadRequest");
    server.get(&at(IMAGES, "a")).await.fails(404, "NotFound");

    let object = server.post(IMAGES, &image("a")).await.ok();
    let path = at(IMAGES, "a");
    let change = json!({ "spec": { "storage": "Kubernetes" } });
    let patched = server.patch(&format!("{path}?dryRun=All"), MERGE_PATCH, &change).await.ok();
    assert_eq!(patched["spec"]["storage"], "Kubernetes");
    assert_eq!(patched["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    server.delete(&format!("{path}?dryRun=All")).await.ok();
    server.post(&dry, &image("a")).await.fails(409, "AlreadyExists");
    assert_eq!(server.get(&path).await.ok(), object);
}

#[tokio::test]
async fn a_name_is_made_when_none_is_given() {
    let server = Fixture::new();
    let mut object = image("");
    object["metadata"] = json!({ "generateName": "disk-" });
    let first = server.post(IMAGES, &object).await.ok();
    let second = server.post(IMAGES, &object).await.ok();
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&first).starts_with("disk-") && name(&first).len() == 10, "{}", name(&first));
    assert_ne!(name(&first), name(&second));
}

#[tokio::test]
async fn the_name_the_namespace_and_the_kind_are_those_of_the_path() {
    let server = Fixture::new();
    let object = server.post(IMAGES, &image("a")).await.ok();
    server.put(&at(IMAGES, "b"), &object).await.fails(400, "BadRequest");
    let changed = |field: &str, value: &str| {
        let mut object = image("b");
        object[field] = json!(value);
        object
    };
    server.post(IMAGES, &changed("apiVersion", "v1")).await.fails(400, "BadRequest");
    server.post(IMAGES, &changed("kind", "Secret")).await.fails(422, "Invalid");
    let mut elsewhere = image("b");
    elsewhere["metadata"]["namespace"] = json!("elsewhere");
    server.post(IMAGES, &elsewhere).await.fails(400, "BadRequest");
    for name in ["", "A", "a_b", "-a", &"a".repeat(254)] {
        server.post(IMAGES, &image(name)).await.fails(422, "Invalid");
    }
}

#[tokio::test]
async fn secrets_take_texts_and_keep_base64() {
    let server = Fixture::new();
    let secret = json!({ "metadata": { "name": "s" }, "stringData": { "a": "b" } });
    let created = server.post(SECRETS, &secret).await.ok();
    assert_eq!((&created["kind"], &created["type"]), (&json!("Secret"), &json!("Opaque")));
    assert_eq!(created["data"], json!({ "a": "Yg==" }));
    assert_eq!(created.get("stringData"), None);

    let path = at(SECRETS, "s");
    let change = json!({ "data": { "c": "ZA==", "a": null }, "immutable": true });
    let patched = server.patch(&path, STRATEGIC_PATCH, &change).await.ok();
    assert_eq!(patched["data"], json!({ "c": "ZA==" }));
    let message =
        server.patch(&path, MERGE_PATCH, &json!({ "data": { "c": "AA==" } })).await.fails(422, "Invalid");
    assert!(message.contains("field is immutable when `immutable` is set"), "{message}");
}

#[tokio::test]
async fn a_namespace_is_made_and_found() {
    let server = Fixture::new();
    let created = server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok();
    assert_eq!(created["status"]["phase"], "Active");
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    server.post(&IMAGES.replace("default", "team"), &image("a")).await.ok();
    let names: Vec<Value> = server.get(NAMESPACES).await.ok()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|namespace| namespace["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["default", "team"]);
}

#[tokio::test]
async fn events_are_written_under_one_name_and_read_under_another() {
    let server = Fixture::new();
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": "e" },
        "regarding": { "kind": "VirtualImage", "name": "a", "namespace": "default", "uid": "u" },
        "note": "it works",
        "reason": "Imported",
        "type": "Normal",
        "reportingController": "dvcr",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    });
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let core = "/api/v1/namespaces/default/events";
    server.post(new, &event).await.ok();
    let series = json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:05.000000Z" } });
    assert_eq!(server.patch(&at(new, "e"), MERGE_PATCH, &series).await.ok()["note"], "it works");
    let about = |name: &str| format!("{core}?fieldSelector=involvedObject.name={name},involvedObject.uid=u");
    let found = server.get(&about("a")).await.ok();
    assert_eq!(found["items"][0]["apiVersion"], "v1");
    assert_eq!(found["items"][0]["message"], "it works");
    assert_eq!(found["items"][0]["series"]["count"], 2);
    assert_eq!(server.get(&about("b")).await.ok()["items"], json!([]));
}
