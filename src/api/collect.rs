//! `POST /v2/_dvcr/storage/collect`: take away what nothing needs any more, or (`?dryRun=true`) tell what that is.
//!
//! The answer is JSON, when it is done. An extension, as [`super::stats`] is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, Uri};
use tracing::Instrument as _;

use super::Api;
use super::error::ApiError;
use super::query::Query;
use crate::registry::Collected;

pub(super) const PATH: &str = "/v2/_dvcr/storage/collect";

pub(super) async fn handle(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
) -> Result<Json<Collected>, ApiError> {
    if method != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let only_look = Query::of(&uri).switch("dryRun")?;
    let registry = Arc::clone(&api.registry);
    // Goes on when the client goes away: what is begun is better ended.
    let metrics = Arc::clone(&api.metrics);
    let collect = async move {
        let outcome = registry.collect(only_look).await;
        if !only_look {
            metrics.collected(&outcome);
        }
        outcome
    };
    let collected = api.tasks.spawn(collect.in_current_span());
    Ok(Json(collected.await.map_err(|error| ApiError::internal(&error))??))
}
