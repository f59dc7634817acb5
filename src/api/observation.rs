//! What those ask who watch over a process: metrics, and whether it lives and can work.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use super::error::ApiError;
use super::{Api, health};
use crate::metrics::{self, Metrics};

/// `/metrics`, `/livez` and `/readyz` of a registry, for an address that only monitoring reaches.
pub fn observation(api: Api) -> Router {
    let metrics = Arc::clone(&api.metrics);
    Router::new().route("/readyz", get(health::ready)).with_state(api).merge(exposition(metrics))
}

/// `/metrics` and `/livez` of any process.
pub fn exposition(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(health::live))
        .merge(only_metrics(metrics))
        .fallback(async || ApiError::no_such_endpoint())
}

/// `/metrics` alone, to be served beside everything else.
pub fn only_metrics(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(answer)).with_state(metrics)
}

async fn answer(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.exposition() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => ApiError::internal(&error).into_response(),
    }
}
