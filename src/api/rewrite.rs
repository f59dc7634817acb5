//! `POST /v2/_dvcr/storage/rewrite?to=chunks`: store the blobs that are there in chunks, or (`whole`) as they are, or (`dense`)
//! out of packs of which less than half is needed.
//!
//! The answer is a line of JSON for each thing that happens, as it happens: first how much there is to do, then a blob each, and
//! each second how far it is. A client that goes away, and a server that is to stop, end it behind the blob at hand. An extension, as [`super::stats`] is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::admission::InFlight;
use super::audit::Event;
use super::error::ApiError;
use super::query::Query;
use super::{Api, ndjson};
use crate::oci::{Digest, ErrorCode};
use crate::registry::{Form, Registry};

pub(super) const PATH: &str = "/v2/_dvcr/storage/rewrite";

/// How often it is told how far a blob is.
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answer = rewrite(&api, &parts).await;
    Event::told(Event::of_administration(&parts), answer.unwrap_or_else(IntoResponse::into_response))
}

async fn rewrite(api: &Api, request: &Parts) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let query = Query::of(&request.uri);
    let form = match query.get("to") {
        Some("chunks") => Form::Chunks,
        Some("whole") => Form::Whole,
        Some("dense") => Form::Dense,
        other => {
            return Err(ApiError::bad_parameter("to", other.unwrap_or_default(), "chunks, whole or dense"));
        }
    };
    let Ok(turn) = Arc::clone(&api.rewriting).try_lock_owned() else {
        let message = "the blobs are being rewritten already";
        return Err(ApiError::new(StatusCode::CONFLICT, ErrorCode::Denied, message));
    };
    let blobs = api.registry.not_in_form(form).await?;
    let (lines, events) = mpsc::channel(ndjson::AHEAD);
    let (registry, stopping) = (Arc::clone(&api.registry), api.stopping.clone());
    let in_flight: Option<InFlight> = request.extensions.get().cloned();
    tokio::spawn(async move {
        let _held = (turn, in_flight);
        rewrite_all(&registry, blobs, form, &lines, &stopping).await;
    });
    Ok(ndjson::answer(events))
}

/// Rewrites blobs one after the other, for as long as somebody reads what happens.
async fn rewrite_all(
    registry: &Registry,
    blobs: Vec<(Digest, u64)>,
    form: Form,
    lines: &mpsc::Sender<Value>,
    stopping: &CancellationToken,
) {
    let total: u64 = blobs.iter().map(|(_, size)| size).sum();
    if !say(lines, json!({ "blobs": blobs.len(), "bytes": total })).await {
        return;
    }
    for (digest, size) in blobs {
        let passed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&passed);
        let rewrite = registry.rewrite(&digest, form, move |bytes| counter.store(bytes, Ordering::Relaxed));
        tokio::pin!(rewrite);
        let mut ticks = tokio::time::interval(TICK);
        let outcome = loop {
            tokio::select! {
                outcome = &mut rewrite => break outcome,
                // That nobody reads it any more is noticed behind the blob: half of one would be garbage.
                _ = ticks.tick() => {
                    let _ = say(lines, json!({ "passed": passed.load(Ordering::Relaxed) })).await;
                }
            }
        };
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

/// Adds a line; `false` when nobody reads it.
async fn say(lines: &mpsc::Sender<Value>, line: Value) -> bool {
    lines.send(line).await.is_ok()
}
