use serde_json::{Value, json};

use super::support::{Fixture, GROUP, IMAGES, NAMESPACES, SECRETS, at, image};

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_is_sorted_and_selected() {
    let server = Fixture::new();
    for name in ["c", "a", "b"] {
        let mut object = image(name);
        object["metadata"]["labels"] = json!({ "name": name });
        server.post(IMAGES, &object).await.ok();
    }
    let list = server.get(IMAGES).await.ok();
    assert_eq!(list["kind"], "VirtualImageList");
    assert_eq!(names(&list), ["a", "b", "c"]);
    assert_eq!(list["items"][0]["kind"], "VirtualImage");
    let selected = async |query: &str| server.get(&format!("{IMAGES}?{query}")).await.ok();
    assert_eq!(names(&selected("labelSelector=name+in+(a,b),name!%3Db").await), ["a"]);
    assert_eq!(names(&selected("fieldSelector=metadata.name%3Dc").await), ["c"]);
    let message = server.get(&format!("{IMAGES}?fieldSelector=spec.x%3Dc")).await.fails(400, "BadRequest");
    assert_eq!(message, "field label not supported: spec.x");
    server.get(&format!("{IMAGES}?labelSelector=a%3D(")).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn a_list_of_all_namespaces_has_them_all() {
    let server = Fixture::new();
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok();
    server.post(IMAGES, &image("a")).await.ok();
    server.post(&IMAGES.replace("default", "team"), &image("b")).await.ok();
    assert_eq!(names(&server.get(&format!("{GROUP}/virtualimages")).await.ok()), ["a", "b"]);
    assert_eq!(names(&server.get(IMAGES).await.ok()), ["a"]);
}

#[tokio::test]
async fn pages_show_one_moment() {
    let server = Fixture::new();
    for name in ["a", "b", "c", "d", "e"] {
        server.post(IMAGES, &image(name)).await.ok();
    }
    let first = server.get(&format!("{IMAGES}?limit=2")).await.ok();
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    server.delete(&at(IMAGES, "c")).await.ok();
    server.post(IMAGES, &image("bb")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{IMAGES}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{IMAGES}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&third), ["e"]);
    assert_eq!(third["metadata"].get("continue"), None);
    server.get(&format!("{IMAGES}?continue=nonsense")).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn a_page_of_long_ago_has_expired() {
    let server = Fixture::with_window(Some(3));
    for name in ["a", "b", "c"] {
        server.post(IMAGES, &image(name)).await.ok();
    }
    let first = server.get(&format!("{IMAGES}?limit=1")).await.ok();
    for name in ["d", "e", "f", "g"] {
        server.post(IMAGES, &image(name)).await.ok();
    }
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.get(&format!("{IMAGES}?limit=1&continue={token}")).await.fails(410, "Expired");
}

#[tokio::test]
async fn versions_of_the_past_are_known_and_those_of_the_future_are_not() {
    let server = Fixture::new();
    let a = server.post(IMAGES, &image("a")).await.ok();
    let version: u64 = a["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    server.post(IMAGES, &image("b")).await.ok();
    let list = async |query: String| server.get(&format!("{IMAGES}?{query}")).await;
    let exact = list(format!("resourceVersion={version}&resourceVersionMatch=Exact")).await.ok();
    assert_eq!(names(&exact), ["a"]);
    let newer = list(format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan")).await.ok();
    assert_eq!(names(&newer), ["a", "b"]);
    assert_eq!(names(&list("resourceVersion=0".into()).await.ok()), ["a", "b"]);
    list("resourceVersion=0&resourceVersionMatch=Exact".into()).await.fails(422, "Invalid");
    list("resourceVersionMatch=Exact".into()).await.fails(422, "Invalid");
    list("resourceVersion=x".into()).await.fails(400, "BadRequest");
    let message = list("resourceVersion=1000".into()).await.fails(504, "Timeout");
    assert!(message.contains("Too large resource version: 1000"), "{message}");
}

#[tokio::test]
async fn secrets_are_found_by_their_type() {
    let server = Fixture::new();
    server.post(SECRETS, &json!({ "metadata": { "name": "a" } })).await.ok();
    server.post(SECRETS, &json!({ "metadata": { "name": "b" }, "type": "example.com/b" })).await.ok();
    let found = server.get(&format!("{SECRETS}?fieldSelector=type%3Dexample.com/b")).await.ok();
    assert_eq!(names(&found), ["b"]);
}
