use axum::body::Body;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use serde_json::json;

use super::support::{
    APPLY_PATCH, Answer, Fixture, IMAGES, JSON, JSON_PATCH, MERGE_PATCH, SECRETS, at, image,
};

async fn send(server: &Fixture, method: &str, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
    let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
    server.send(request.body(body.into()).unwrap()).await
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_write() {
    let server = Fixture::new();
    let body = image("a").to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        send(&server, "POST", IMAGES, kind, body.clone()).await.fails(415, "UnsupportedMediaType");
    }
    let request = Request::post(IMAGES).body(Body::from(body)).unwrap();
    server.send(request).await.fails(415, "UnsupportedMediaType");
    let preflight = Request::builder().method("OPTIONS").uri(IMAGES).body(Body::empty()).unwrap();
    let answer = server.send(preflight).await;
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let server = Fixture::new();
    let large = " ".repeat((3 << 20) + 1);
    send(&server, "POST", IMAGES, JSON, large.clone()).await.fails(413, "RequestEntityTooLarge");
    let pieces = futures::stream::iter(vec![Ok::<_, std::io::Error>(large)]);
    send(&server, "POST", IMAGES, JSON, Body::from_stream(pieces)).await.fails(413, "RequestEntityTooLarge");
}

#[tokio::test]
async fn deep_nesting_is_an_answer_and_not_the_end() {
    let server = Fixture::new();
    server.post(IMAGES, &image("a")).await.ok();
    let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    send(&server, "POST", IMAGES, JSON, deep.clone()).await.fails(400, "BadRequest");
    send(&server, "PATCH", &at(IMAGES, "a"), MERGE_PATCH, deep.clone()).await.fails(400, "BadRequest");
    let apply = format!("{IMAGES}/a?fieldManager=m");
    send(&server, "PATCH", &apply, APPLY_PATCH, deep).await.fails(400, "BadRequest");
    let deeper: Vec<_> = (1..5_000)
        .map(|depth| json!({ "op": "add", "path": format!("/spec{}", "/a".repeat(depth)), "value": {} }))
        .collect();
    let answer = server.patch(&at(IMAGES, "a"), JSON_PATCH, &json!(deeper)).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
    server.get(&at(IMAGES, "a")).await.ok();
}

#[tokio::test]
async fn a_patch_that_doubles_and_doubles_is_refused() {
    let server = Fixture::new();
    server.post(SECRETS, &json!({ "metadata": { "name": "s" }, "stringData": { "a": "b" } })).await.ok();
    let double: Vec<_> =
        (0..60).map(|n| json!({ "op": "copy", "from": "/data", "path": format!("/data/x{n}") })).collect();
    let answer = server.patch(&at(SECRETS, "s"), JSON_PATCH, &json!(double)).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
}

#[tokio::test]
async fn names_do_not_lead_elsewhere() {
    let server = Fixture::new();
    for path in [
        "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualimages/..%2f..%2fsecrets",
        "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default%2fx/virtualimages",
        "/apis/virtualization.deckhouse.io/v1alpha2/namespaces//virtualimages",
        "/api/v1/namespaces/default/secrets/%ff",
    ] {
        server.get(path).await.fails(404, "NotFound");
    }
}

#[tokio::test]
async fn the_values_of_secrets_are_in_no_message() {
    let server = Fixture::new();
    let refused = [
        json!({ "metadata": { "name": "s" }, "data": { "p": "hunter2!" } }),
        json!({ "metadata": { "name": "S" }, "stringData": { "p": "hunter2" } }),
        json!({ "metadata": { "name": "s" }, "type": "kubernetes.io/dockerconfigjson",
                "stringData": { ".dockerconfigjson": "hunter2" } }),
    ];
    for secret in refused {
        let answer = server.post(SECRETS, &secret).await;
        assert!(answer.status.is_client_error());
        assert!(!answer.body.to_string().contains("hunter2"), "{}", answer.body);
    }
    server.post(SECRETS, &json!({ "metadata": { "name": "s" } })).await.ok();
    let strict = format!("{SECRETS}/s?fieldValidation=Strict");
    let patch = json!({ "stringData": { "p": "hunter2" }, "x": 1 });
    let answer = server.patch(&strict, MERGE_PATCH, &patch).await;
    assert!(!answer.body.to_string().contains("hunter2"), "{}", answer.body);
    answer.fails(422, "Invalid");
}
