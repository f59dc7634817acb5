use serde_json::{Value, json};

use super::support::{Fixture, IMAGES, JSON, SECRETS, at, image};

async fn owner(server: &Fixture) -> Value {
    server.post(IMAGES, &image("owner")).await.ok()
}

fn owned_by(name: &str, owners: &[&Value]) -> Value {
    let reference = |owner: &&Value| {
        json!({
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        })
    };
    let references: Vec<Value> = owners.iter().map(reference).collect();
    json!({ "metadata": { "name": name, "ownerReferences": references } })
}

#[tokio::test]
async fn dependents_go_after_their_last_owner() {
    let server = Fixture::new();
    let first = owner(&server).await;
    let second = server.post(IMAGES, &image("second")).await.ok();
    server.post(SECRETS, &owned_by("one", &[&first])).await.ok();
    let one = server.get(&at(SECRETS, "one")).await.ok();
    server.post(SECRETS, &owned_by("below", &[&one])).await.ok();
    server.post(SECRETS, &owned_by("both", &[&first, &second])).await.ok();
    server.delete(&at(IMAGES, "owner")).await.ok();
    server.until(&at(SECRETS, "one"), 404.try_into().unwrap()).await;
    server.until(&at(SECRETS, "below"), 404.try_into().unwrap()).await;
    server.get(&at(SECRETS, "both")).await.ok();
    server.delete(&at(IMAGES, "second")).await.ok();
    server.until(&at(SECRETS, "both"), 404.try_into().unwrap()).await;
}

#[tokio::test]
async fn orphans_stay() {
    let server = Fixture::new();
    let owner = owner(&server).await;
    server.post(SECRETS, &owned_by("s", &[&owner])).await.ok();
    let options = json!({ "propagationPolicy": "Orphan" });
    server.write("DELETE", &at(IMAGES, "owner"), JSON, &options).await.ok();
    let orphan = server.get(&at(SECRETS, "s")).await.ok();
    assert_eq!(orphan["metadata"].get("ownerReferences").cloned().unwrap_or(json!([])), json!([]));
}

#[tokio::test]
async fn an_owner_of_a_kind_that_is_not_served_may_be_anywhere() {
    let server = Fixture::new();
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "uid": "u" } });
    let owner = owner(&server).await;
    server.post(SECRETS, &owned_by("s", &[&pod])).await.ok();
    server.post(SECRETS, &owned_by("t", &[&owner])).await.ok();
    server.delete(&at(IMAGES, "owner")).await.ok();
    server.until(&at(SECRETS, "t"), 404.try_into().unwrap()).await;
    server.get(&at(SECRETS, "s")).await.ok();
}
