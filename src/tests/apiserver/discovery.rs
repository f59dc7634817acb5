use axum::body::Body;
use axum::http::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use serde_json::{Value, json};

use super::support::{Fixture, GROUP, IMAGES};

#[tokio::test]
async fn the_version_is_one_that_kubectl_knows() {
    let version = Fixture::new().get("/version").await.ok();
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.34."));
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("34")));
}

#[tokio::test]
async fn groups_and_resources_can_be_discovered() {
    let server = Fixture::new();
    assert_eq!(server.get("/api").await.ok()["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.ok();
    let names: Vec<&Value> =
        groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert_eq!(names, ["events.k8s.io", "virtualization.deckhouse.io"]);
    let resources = server.get(GROUP).await.ok();
    let image = resources["resources"].as_array().unwrap().iter();
    let image = image.clone().find(|resource| resource["name"] == "virtualimages").unwrap();
    assert_eq!(image["shortNames"], json!(["vi"]));
    assert_eq!(image["namespaced"], true);
    server.get("/apis/example.com").await.fails(404, "NotFound");
    server.get("/apis/example.com/v1").await.fails(404, "NotFound");
}

#[tokio::test]
async fn discovery_can_be_had_in_one_piece() {
    let server = Fixture::new();
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = server.get_as("/apis", accept).await;
    assert_eq!(answer.headers[CONTENT_TYPE].to_str().unwrap(), accept.split(',').next().unwrap());
    let groups = answer.ok();
    assert_eq!(groups["apiVersion"], "apidiscovery.k8s.io/v2");
    let resources = &groups["items"][1]["versions"][0]["resources"];
    assert_eq!(resources[0]["scope"], "Namespaced");
    assert_eq!(resources[0]["subresources"][0]["subresource"], "status");
    let core = server.get_as("/api", accept).await.ok();
    assert_eq!(core["items"][0]["versions"][0]["resources"][0]["resource"], "namespaces");
}

#[tokio::test]
async fn the_schema_is_published_with_what_kubectl_looks_for() {
    let server = Fixture::new();
    let index = server.get("/openapi/v3").await.ok();
    for (path, document) in index["paths"].as_object().unwrap() {
        let url = document["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
        server.get(url).await.ok();
    }
    let document = server.get(&format!("/openapi/v3{GROUP}")).await.ok();
    let schema = &document["components"]["schemas"]["io.deckhouse.virtualization.v1alpha2.VirtualImage"];
    let kind =
        json!({ "group": "virtualization.deckhouse.io", "version": "v1alpha2", "kind": "VirtualImage" });
    assert_eq!(schema["x-kubernetes-group-version-kind"], json!([kind]));
    let patch =
        &document["paths"][format!("{GROUP}/namespaces/{{namespace}}/virtualimages/{{name}}")]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
    let parameters: Vec<&Value> =
        patch["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    assert!(parameters.contains(&&json!("fieldValidation")) && parameters.contains(&&json!("dryRun")));
}

#[tokio::test]
async fn every_reference_in_a_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let server = Fixture::new();
    for path in ["api/v1", "apis/events.k8s.io/v1", "apis/virtualization.deckhouse.io/v1alpha2"] {
        let document = server.get(&format!("/openapi/v3/{path}")).await.ok();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}

#[tokio::test]
async fn methods_that_mean_nothing_are_refused() {
    let server = Fixture::new();
    for (method, path, allow) in [
        ("PUT", IMAGES, "DELETE, GET, HEAD, POST"),
        ("OPTIONS", IMAGES, "DELETE, GET, HEAD, POST"),
        ("POST", "/version", "GET, HEAD"),
        ("POST", &format!("{GROUP}/virtualimages"), "GET, HEAD"),
    ] {
        let answer =
            server.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.headers[ALLOW], allow, "{method} {path}");
        answer.fails(405, "MethodNotAllowed");
    }
    for path in ["/version", IMAGES, &format!("{IMAGES}?watch=true")] {
        let answer = server.send(Request::head(path).body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.body), (200, Value::Null), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_reads_no_json_is_told_so() {
    let server = Fixture::new();
    server.get_as(IMAGES, "application/vnd.kubernetes.protobuf").await.fails(406, "NotAcceptable");
    server.get_as(IMAGES, "application/vnd.kubernetes.protobuf,application/json").await.ok();
    server.get_as("/version", "text/html").await.fails(406, "NotAcceptable");
}
