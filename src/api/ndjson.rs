//! Answers that are a line of JSON for each thing that happens, as it happens.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::mpsc;

/// Lines that nobody has read yet, at most.
pub(super) const AHEAD: usize = 16;

/// What comes, line by line. Whoever sends it learns when the client goes away.
pub(super) fn answer<T: Serialize + Send + 'static>(events: mpsc::Receiver<T>) -> Response {
    let lines = stream::unfold(events, async |mut events| Some((events.recv().await?, events)));
    let lines = lines.map(|event| Ok::<Bytes, Infallible>(line(&event)));
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn line(event: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
