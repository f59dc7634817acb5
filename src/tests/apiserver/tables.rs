use serde_json::{Value, json};

use super::support::{Fixture, IMAGES, MERGE_PATCH, NAMESPACES, SECRETS, TABLE, at, image};

fn columns(table: &Value) -> Vec<&str> {
    table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn custom_objects_have_the_columns_of_their_definition() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let status = json!({ "status": { "phase": "Ready", "progress": "100%" } });
    server.patch(&format!("{IMAGES}/a/status"), MERGE_PATCH, &status).await.ok();
    server.wait(190);
    let table = server.get_as(IMAGES, TABLE).await.ok();
    assert_eq!(columns(&table), ["Name", "Phase", "CDROM", "Progress", "StoredSize", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "Ready", null, "100%", null, "3m10s"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let one = server.get_as(&format!("{}?includeObject=Object", at(IMAGES, "a")), TABLE).await.ok();
    assert_eq!(one["rows"][0]["object"]["kind"], "VirtualImage");
    let none = server.get_as(&format!("{IMAGES}?includeObject=None"), TABLE).await.ok();
    assert_eq!(none["rows"][0]["object"], Value::Null);
}

#[tokio::test]
async fn namespaces_and_secrets_have_those_of_kubernetes() {
    let server = Fixture::new();
    let secret = json!({ "metadata": { "name": "s" }, "stringData": { "a": "hunter2", "b": "c" } });
    server.post(SECRETS, &secret).await.ok();
    let table = server.get_as(SECRETS, TABLE).await.ok();
    assert_eq!(columns(&table), ["Name", "Type", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["s", "Opaque", "2", "0s"]));
    assert!(!table.to_string().contains("hunter2"));
    let whole = server.get_as(&format!("{SECRETS}?includeObject=Object"), TABLE).await.ok();
    assert_eq!(whole["rows"][0]["object"]["data"]["b"], "Yw==");
    let table = server.get_as(NAMESPACES, TABLE).await.ok();
    assert_eq!(columns(&table), ["Name", "Status", "Age"]);
    assert_eq!(table["rows"][0]["cells"], json!(["default", "Active", "0s"]));
}

#[tokio::test]
async fn events_begin_with_their_age() {
    let server = Fixture::new();
    let events = "/api/v1/namespaces/default/events";
    let event = json!({
        "metadata": { "name": "e" },
        "involvedObject": { "kind": "VirtualImage", "name": "a", "namespace": "default" },
        "reason": "Imported",
        "message": "it works\n",
        "type": "Normal",
        "source": { "component": "dvcr" },
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:01:00Z",
        "count": 3,
    });
    server.post(events, &event).await.ok();
    server.wait(120);
    let table = server.get_as(events, TABLE).await.ok();
    assert_eq!(columns(&table)[..4], ["Last Seen", "Type", "Reason", "Object"]);
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["60s", "Normal", "Imported", "virtualimage/a", "", "dvcr", "it works", "2m", "3", "e"])
    );
}

#[tokio::test]
async fn who_wants_metadata_alone_gets_no_more() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let form = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let one = server.get_as(&at(IMAGES, "a"), form).await.ok();
    assert_eq!(
        (&one["kind"], &one["apiVersion"]),
        (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(one.get("spec"), None);
    let form = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = server.get_as(IMAGES, form).await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
}
