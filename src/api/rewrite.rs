//! `POST /v2/_dvcr/storage/rewrite?to=chunks`: store the blobs that are there in chunks, or (`whole`) as they are, or (`dense`)
//! out of packs of which less than half is needed.
//!
//! The answer is a line of JSON for each thing that happens, as it happens: how many blobs have been looked at, then how much there is
//! to do, then a blob each, and each second how far it is. A client that goes away, and a server that is to stop, end it: behind
//! the blob at hand. An extension, as [`super::stats`] is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::InFlight;
use super::audit::Event;
use super::error::ApiError;
use super::query::Query;
use super::{Api, ndjson};
use crate::oci::{Digest, ErrorCode};
use crate::registry::{self, Form, Registry};

pub(super) const PATH: &str = "/v2/_dvcr/storage/rewrite";

/// How often it is told how far a blob is.
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answer = rewrite(&api, &parts);
    Event::told(Event::of_administration(&parts), answer.unwrap_or_else(IntoResponse::into_response))
}

fn rewrite(api: &Api, request: &Parts) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let query = Query::of(&request.uri);
    let to = match query.get("to") {
        Some("chunks") => To::Form(Form::Chunks),
        Some("whole") => To::Form(Form::Whole),
        Some("dense") => To::Dense,
        other => {
            return Err(ApiError::bad_parameter("to", other.unwrap_or_default(), "chunks, whole or dense"));
        }
    };
    let Ok(turn) = Arc::clone(&api.rewriting).try_lock_owned() else {
        let message = "the blobs are being rewritten already";
        return Err(ApiError::new(StatusCode::CONFLICT, ErrorCode::Denied, message));
    };
    let (lines, events) = mpsc::channel(ndjson::AHEAD);
    let (registry, stopping) = (Arc::clone(&api.registry), api.stopping.clone());
    let in_flight: Option<InFlight> = request.extensions.get().cloned();
    tokio::spawn(async move {
        let _held = (turn, in_flight);
        let far = Far::default();
        let find = to.find(&registry, far.teller());
        let look = far.telling("looked", &lines, find);
        let found = tokio::select! {
            found = look => found,
            () = lines.closed() => return,
            () = stopping.cancelled() => return,
        };
        match found {
            Ok(blobs) => rewrite_all(&registry, blobs, to, &lines, &stopping).await,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot find out what is to be rewritten"
                );
                say(&lines, json!({ "error": error.to_string() })).await;
            }
        }
    });
    Ok(ndjson::answer(events))
}

/// How blobs shall be stored.
#[derive(Debug, Clone, Copy)]
enum To {
    Form(Form),
    /// As they are, but for what they have in packs that are to go.
    Dense,
}

impl To {
    /// The blobs that are not so, with their sizes.
    async fn find(
        self,
        registry: &Registry,
        looked: impl Fn(u64) + Send,
    ) -> registry::Result<Vec<(Digest, u64)>> {
        match self {
            Self::Form(form) => registry.not_in_form(form, looked).await,
            Self::Dense => registry.in_sparse_packs(looked).await,
        }
    }

    async fn rewrite(
        self,
        registry: &Registry,
        digest: &Digest,
        passed: impl Fn(u64) + Send + 'static,
    ) -> registry::Result<bool> {
        match self {
            Self::Form(form) => registry.rewrite(digest, form, passed).await,
            Self::Dense => registry.make_dense(digest, None, passed).await,
        }
    }
}

/// Rewrites blobs one after the other, for as long as somebody reads what happens.
async fn rewrite_all(
    registry: &Registry,
    blobs: Vec<(Digest, u64)>,
    to: To,
    lines: &mpsc::Sender<Value>,
    stopping: &CancellationToken,
) {
    let total: u64 = blobs.iter().map(|(_, size)| size).sum();
    if !say(lines, json!({ "blobs": blobs.len(), "bytes": total })).await {
        return;
    }
    for (digest, size) in blobs {
        // That nobody reads it any more is noticed behind the blob: half of one would be garbage.
        let far = Far::default();
        let rewrite = to.rewrite(registry, &digest, far.teller());
        let outcome = far.telling("passed", lines, rewrite).await;
        let line = match outcome {
            Ok(true) => json!({ "digest": digest, "size": size, "outcome": "rewritten" }),
            Ok(false) => json!({ "digest": digest, "size": size, "outcome": "unchanged" }),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, %digest, "cannot rewrite a blob");
                json!({ "digest": digest, "size": size, "outcome": "failed", "error": error.to_string() })
            }
        };
        if !say(lines, line).await || stopping.is_cancelled() {
            return;
        }
    }
}

/// How far something is.
#[derive(Debug, Default)]
struct Far(Arc<AtomicU64>);

impl Far {
    /// For whoever does it to say so.
    fn teller(&self) -> impl Fn(u64) + Send + use<> {
        let far = Arc::clone(&self.0);
        move |now| far.store(now, Ordering::Relaxed)
    }

    /// Waits for the end of it, and tells each second how far it is.
    async fn telling<T>(
        self,
        what: &str,
        lines: &mpsc::Sender<Value>,
        work: impl Future<Output = T> + Send,
    ) -> T {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval_at(Instant::now() + TICK, TICK);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    let _ = say(lines, json!({ what: self.0.load(Ordering::Relaxed) })).await;
                }
            }
        }
    }
}

/// Adds a line; `false` when nobody reads it.
async fn say(lines: &mpsc::Sender<Value>, line: Value) -> bool {
    lines.send(line).await.is_ok()
}
