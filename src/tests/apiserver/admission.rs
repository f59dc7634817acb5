//! What whoever gave a kind its meaning refuses is refused whichever verb brings it.

use std::sync::Arc;

use axum::http::Extensions;
use dvcr::apiserver::Admission;
use serde_json::{Value, json};

use super::support::{ALIASED, APPLY_PATCH, Fixture, IMAGES, JSON_PATCH, MERGE_PATCH, at, image};

const SECRET_PLACE: &str = "https://secret.example/disk.img";

/// Refuses images of one place, unless they were of it before.
#[derive(Debug)]
struct NotFromThere;

fn url(object: &Value) -> &Value {
    &object["spec"]["dataSource"]["http"]["url"]
}

impl Admission for NotFromThere {
    fn refuses(&self, _: &Extensions, kind: &str, old: Option<&Value>, new: &Value) -> Option<String> {
        assert_eq!(kind, "VirtualImage");
        let is_news = old.is_none_or(|old| url(old) != url(new));
        (is_news && url(new) == SECRET_PLACE).then(|| "not from there".to_owned())
    }
}

fn from_there(name: &str) -> Value {
    let mut image = image(name);
    image["spec"]["dataSource"]["http"]["url"] = json!(SECRET_PLACE);
    image
}

fn aliased(mut image: Value) -> Value {
    image["kind"] = json!("VirtualImages");
    image
}

#[tokio::test]
async fn what_is_refused_is_refused_by_every_verb_and_leaves_everything_as_it_was() {
    let server = Fixture::with_admission(Arc::new(NotFromThere));
    let made = server.post(IMAGES, &image("a")).await.ok();
    let (there, new) = (at(IMAGES, "a"), at(IMAGES, "new"));
    let mut replaced = made.clone();
    replaced["spec"] = from_there("a")["spec"].clone();
    let patch = json!({ "spec": from_there("a")["spec"] });
    let operation = json!([{ "op": "replace", "path": "/spec/dataSource/http/url", "value": SECRET_PLACE }]);
    let by_me = |path: &str| format!("{path}?fieldManager=me&force=true");
    for answer in [
        server.post(IMAGES, &from_there("new")).await,
        server.post(&format!("{IMAGES}?dryRun=All"), &from_there("new")).await,
        server.patch(&by_me(&new), APPLY_PATCH, &from_there("new")).await,
        server.patch(&by_me(&there), APPLY_PATCH, &from_there("a")).await,
        server.patch(&there, MERGE_PATCH, &patch).await,
        server.patch(&there, JSON_PATCH, &operation).await,
        server.put(&there, &replaced).await,
        // By another name of the kind too.
        server.post(ALIASED, &aliased(from_there("new"))).await,
        server.patch(&at(ALIASED, "a"), MERGE_PATCH, &patch).await,
        server.patch(&by_me(&at(ALIASED, "a")), APPLY_PATCH, &aliased(from_there("a"))).await,
    ] {
        let message = answer.fails(403, "Forbidden");
        assert!(message.ends_with("is forbidden: not from there"), "{message}");
    }
    assert_eq!(server.get(&there).await.ok(), made);
    server.get(&new).await.fails(404, "NotFound");
}
