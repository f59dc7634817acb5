//! Watching: the changes of a collection, as they happen.
//!
//! A watcher remembers how far it has got and reads on from the store's window of changes; nothing is queued for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::list::{known_version, range};
use super::negotiate::{Form, form};
use super::query::{Query, Selector, VersionMatch};
use super::render::View;
use super::resource::Resource;
use super::router::Call;
use super::status::ApiError;
use super::store::{Change, Object, Range};
use super::{Inner, cause, metadata};

/// How often a watcher that wants to know hears of versions at which nothing has happened to it.
const BOOKMARKS: Duration = Duration::from_mins(1);
/// For a client that does not say how long it wants to watch.
const TIMEOUT: Duration = Duration::from_mins(40);
/// Changes that are looked at in one go.
const BATCH: usize = 100;
/// Of a piece of the answer, in bytes, unless a single event is longer.
const PIECE: usize = 256 << 10;

pub(super) fn watch(call: &Call<'_>, resource: Arc<Resource>, namespace: &str) -> Result<Response, ApiError> {
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let inner = &call.server.inner;
    let range = range(&resource, namespace);
    let start = Start::read(&call.query)?;
    // Before anything is read: no change may fall in between.
    let news = inner.store.subscribe();
    let (initial, version) = match start {
        Start::State { .. } => {
            known_version(&call.query, &inner.store)?;
            let snapshot = inner.store.list(&range);
            (snapshot.objects.into(), snapshot.version)
        }
        Start::Newest => (VecDeque::new(), inner.store.version()),
        Start::After(version) => (VecDeque::new(), version),
    };
    let now = Instant::now();
    let watcher = Watcher {
        selector: call.query.selector(&resource)?,
        inner: Arc::clone(inner),
        resource,
        range,
        view,
        initial,
        end_of_initial: start == Start::State { told: true },
        version,
        news,
        stop: inner.stop.subscribe(),
        deadline: now + call.query.timeout()?.unwrap_or(TIMEOUT),
        next_bookmark: call.query.flag("allowWatchBookmarks")?.then(|| now + BOOKMARKS),
        columns_sent: false,
        ended: false,
    };
    let stream = stream::unfold(watcher, async |mut watcher| {
        let piece = watcher.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), watcher))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// With all objects there are; `told` when the client wants to hear where they end.
    State {
        told: bool,
    },
    Newest,
    After(u64),
}

impl Start {
    fn read(query: &Query) -> Result<Self, ApiError> {
        let matching = query.version_match()?;
        let version = query.number("resourceVersion")?.filter(|&version| version > 0);
        let initial = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")).transpose()?;
        let field = "resourceVersionMatch";
        match (initial, matching) {
            (None, VersionMatch::Unset) => Ok(version.map_or(Self::State { told: false }, Self::After)),
            (None, _) => {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                Err(ApiError::invalid_options("ListOptions", cause::forbidden(field, why)))
            }
            (Some(true), VersionMatch::NotOlderThan) => Ok(Self::State { told: true }),
            (Some(false), VersionMatch::NotOlderThan) => Ok(version.map_or(Self::Newest, Self::After)),
            (Some(_), _) => {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                Err(ApiError::invalid_options("ListOptions", cause::forbidden(field, why)))
            }
        }
    }
}

struct Watcher {
    inner: Arc<Inner>,
    resource: Arc<Resource>,
    range: Range,
    view: View,
    selector: Selector,
    /// What is left of the objects that the watch begins with.
    initial: VecDeque<Arc<Object>>,
    /// The client is yet to hear that these were all.
    end_of_initial: bool,
    /// Everything up to here has been sent.
    version: u64,
    news: tokio::sync::watch::Receiver<u64>,
    stop: tokio::sync::watch::Receiver<bool>,
    deadline: Instant,
    /// `None` when the client wants no bookmarks.
    next_bookmark: Option<Instant>,
    columns_sent: bool,
    ended: bool,
}

impl Watcher {
    /// The next piece of the answer, as lines of JSON; `None` at its end.
    async fn next(&mut self) -> Option<String> {
        // Here, because somebody to whom something always happens never waits below.
        if self.ended || *self.stop.borrow() {
            return None;
        }
        if Instant::now() >= self.deadline {
            return self.end();
        }
        if !self.initial.is_empty() || self.end_of_initial {
            let piece = self.initial_events();
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        loop {
            self.news.mark_unchanged();
            let newest = self.inner.store.version();
            let changes = if self.version > newest {
                // Of another database. As one that is too old, it makes the client list again.
                Err(newest)
            } else {
                self.inner.store.changes(self.version, &self.range, BATCH).map_err(|old| old.oldest)
            };
            match changes {
                Ok((changes, reached)) => {
                    let lines = self.lines(&changes, reached);
                    if !lines.is_empty() {
                        return Some(lines);
                    }
                    if changes.len() == BATCH {
                        continue;
                    }
                }
                Err(oldest) => {
                    self.ended = true;
                    return Some(line("ERROR", &ApiError::too_old(self.version, oldest).status()));
                }
            }
            let wake = self.next_bookmark.map_or(self.deadline, |bookmark| bookmark.min(self.deadline));
            let is_time = tokio::select! {
                news = self.news.changed() => news.map(|()| false).ok()?,
                _ = self.stop.wait_for(|stop| *stop) => return None,
                () = sleep_until(wake) => true,
            };
            if is_time && Instant::now() >= self.deadline {
                return self.end();
            }
            if is_time && self.next_bookmark.is_some() {
                self.next_bookmark = Some(Instant::now() + BOOKMARKS);
                return Some(self.bookmark(&json!({})));
            }
        }
    }

    /// The last thing a client hears is how far it has got, if it wants to.
    fn end(&mut self) -> Option<String> {
        self.ended = true;
        self.next_bookmark.is_some().then(|| self.bookmark(&json!({})))
    }

    fn initial_events(&mut self) -> String {
        let mut lines = String::new();
        while lines.len() < PIECE
            && let Some(object) = self.initial.pop_front()
        {
            if self.selector.matches(&self.resource.served(&object.value)) {
                lines.push_str(&self.event("ADDED", &object.value));
            }
        }
        if self.initial.is_empty() && std::mem::take(&mut self.end_of_initial) && self.next_bookmark.is_some()
        {
            lines.push_str(&self.bookmark(&json!({ "k8s.io/initial-events-end": "true" })));
        }
        lines
    }

    /// The lines for some changes, after which the watch has got to `reached`; or to less if these are long.
    fn lines(&mut self, changes: &[Arc<Change>], reached: u64) -> String {
        let mut lines = String::new();
        for change in changes {
            lines.extend(self.change(change));
            if lines.len() >= PIECE {
                self.version = change.version;
                return lines;
            }
        }
        self.version = reached;
        lines
    }

    /// What a change means to somebody who sees only what is selected: an object comes when it begins to match and
    /// goes when it no longer does.
    fn change(&mut self, change: &Change) -> Option<String> {
        let matches = |object: &Arc<Object>| self.selector.matches(&self.resource.served(&object.value));
        let before = change.previous.as_ref().filter(|previous| matches(previous));
        let after = !change.deleted && matches(&change.object);
        match (before, after) {
            (None, false) => None,
            (None, true) => Some(self.event("ADDED", &change.object.value)),
            (Some(_), true) => Some(self.event("MODIFIED", &change.object.value)),
            (Some(_), false) if change.deleted => Some(self.event("DELETED", &change.object.value)),
            (Some(before), false) => {
                let mut last = before.value.clone();
                metadata::set(&mut last, "resourceVersion", json!(change.version.to_string()));
                Some(self.event("DELETED", &last))
            }
        }
    }

    fn event(&mut self, kind: &str, stored: &Value) -> String {
        let object = self.view.object(&self.resource, stored, self.inner.clock.now());
        line(kind, &self.without_known_columns(object))
    }

    fn bookmark(&mut self, annotations: &Value) -> String {
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if annotations.as_object().is_some_and(|annotations| !annotations.is_empty()) {
            metadata["annotations"] = annotations.clone();
        }
        let object = self.view.bookmark(&self.resource, metadata, self.inner.clock.now());
        line("BOOKMARK", &self.without_known_columns(object))
    }

    /// The columns of a table are told once.
    fn without_known_columns(&mut self, mut object: Value) -> Value {
        if self.view.form == Form::Table
            && std::mem::replace(&mut self.columns_sent, true)
            && let Some(table) = object.as_object_mut()
        {
            table.insert("columnDefinitions".into(), Value::Null);
        }
        object
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}
