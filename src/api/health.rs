//! Whether there is a registry here, whether it lives, whether it can work.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;

/// end-1: this is a registry of version 2.
pub(super) async fn version() -> Response {
    ([(CONTENT_TYPE, "application/json")], "{}").into_response()
}

/// The process serves requests.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// The store answers too.
pub(super) async fn ready(State(api): State<Api>) -> Response {
    match api.registry.check().await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}
