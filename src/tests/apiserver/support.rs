//! A server in a folder of its own, and requests to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode};
use dvcr::apiserver::{Admission, ApiServer, ApiServerOptions, Clock, Resource};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

pub(crate) const GROUP: &str = "/apis/virtualization.deckhouse.io/v1alpha2";
pub(crate) const IMAGES: &str = "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualimages";
/// The same by the other name of their kind.
pub(crate) const ALIASED: &str =
    "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualimageses";
const ALIASES: &str = "dvcr.virtualization.deckhouse.io/kind-aliases";
pub(crate) const SECRETS: &str = "/api/v1/namespaces/default/secrets";
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";
pub(crate) const JSON: &str = "application/json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY_PATCH: &str = "application/apply-patch+yaml";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// 2026-01-01, where all clocks here begin.
const START: i64 = 1_767_225_600;

pub(crate) struct Fixture {
    pub(crate) server: ApiServer,
    folder: TempDir,
    seconds: Arc<AtomicI64>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

pub(crate) fn resources() -> Vec<Resource> {
    [include_str!("crds/virtualimages.json"), include_str!("crds/clustervirtualimages.json")]
        .into_iter()
        .flat_map(|crd| {
            let mut crd: Value = serde_json::from_str(crd).unwrap();
            if crd["spec"]["names"]["kind"] == "VirtualImage" {
                crd["metadata"]["annotations"] = json!({ ALIASES: "VirtualImages" });
            }
            Resource::all_from_crd(&crd).unwrap()
        })
        .collect()
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_window(None)
    }

    /// With a window of changes of this size.
    pub(crate) fn with_window(window: Option<usize>) -> Self {
        Self::with(ApiServerOptions { window, ..ApiServerOptions::default() })
    }

    /// With objects that somebody may refuse.
    pub(crate) fn with_admission(admission: Arc<dyn Admission>) -> Self {
        Self::with(ApiServerOptions { admission: Some(admission), ..ApiServerOptions::default() })
    }

    fn with(options: ApiServerOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seconds = Arc::new(AtomicI64::new(START));
        let server = open(&folder, &seconds, options);
        Self { server, folder, seconds }
    }

    /// Closes the server and opens it again, as a restart of the process does.
    pub(crate) fn reopen(self) -> Self {
        let Self { server, folder, seconds } = self;
        drop(server);
        let server = open(&folder, &seconds, ApiServerOptions::default());
        Self { server, folder, seconds }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("objects.redb")
    }

    pub(crate) fn wait(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.server.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Request::get(path).header(ACCEPT, accept).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.write("POST", path, JSON, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.write("PUT", path, JSON, body).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        self.write("PATCH", path, kind, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn write(&self, method: &str, path: &str, kind: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// Waits until a GET gives this status: what goes in the background takes a moment.
    pub(crate) async fn until(&self, path: &str, status: StatusCode) {
        for _ in 0..200 {
            if self.get(path).await.status == status {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} never became {status}");
    }

    pub(crate) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, JSON).await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = Request::get(path).header(ACCEPT, accept).body(Body::empty()).unwrap();
        let response = self.server.router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Events { stream: response.into_body().into_data_stream(), rest: String::new() }
    }
}

fn open(folder: &TempDir, seconds: &Arc<AtomicI64>, options: ApiServerOptions) -> ApiServer {
    let seconds = Arc::clone(seconds);
    let clock = Clock::new(move || Timestamp::from_second(seconds.load(Ordering::Relaxed)).unwrap());
    let options = ApiServerOptions { clock, ..options };
    ApiServer::open_with(&folder.path().join("objects.redb"), resources(), options).unwrap()
}

impl Answer {
    /// The body of a success.
    pub(crate) fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    /// The sentence of a failure.
    pub(crate) fn fails(self, status: u16, reason: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        assert_eq!(self.body["code"], status, "{}", self.body);
        assert_eq!(self.body["reason"], reason, "{}", self.body);
        self.body["message"].as_str().unwrap().to_owned()
    }
}

/// The events of a watch.
pub(crate) struct Events {
    stream: BodyDataStream,
    rest: String,
}

impl Events {
    /// The next one; `None` when the watch has ended, or nothing comes within a moment.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.find('\n') {
                let line: String = self.rest.drain(..=end).collect();
                return Some(serde_json::from_str(&line).unwrap());
            }
            let piece = tokio::time::timeout(Duration::from_secs(2), self.stream.next()).await.ok()??;
            self.rest.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
    }

    /// The type and the name of the next event.
    pub(crate) async fn named(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }

    /// Whether nothing more comes, because the watch has ended.
    pub(crate) async fn has_ended(mut self) -> bool {
        matches!(tokio::time::timeout(Duration::from_secs(2), self.stream.next()).await, Ok(None))
    }
}

pub(crate) fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

pub(crate) fn image(name: &str) -> Value {
    json!({
        "apiVersion": "virtualization.deckhouse.io/v1alpha2",
        "kind": "VirtualImage",
        "metadata": { "name": name },
        "spec": { "dataSource": { "type": "HTTP", "http": { "url": "https://example.com/disk.img" } } },
    })
}

pub(crate) fn at(collection: &str, name: &str) -> String {
    format!("{collection}/{name}")
}
