//! `POST /v2/_dvcr/storage/collect`: take away what nothing needs any more, or (`?dryRun=true`) tell what that is.
//!
//! The answer is JSON, when it is done. An extension, as [`super::stats`] is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Method;

use super::Api;
use super::error::ApiError;
use super::query::Query;
use crate::registry::Collected;

pub(super) const PATH: &str = "/v2/_dvcr/storage/collect";

pub(super) async fn handle(State(api): State<Api>, request: Request) -> Result<Json<Collected>, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let only_look = Query::of(request.uri()).switch("dryRun")?;
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
    let collected = api.spawn(request.extensions(), collect);
    Ok(Json(collected.await.map_err(|error| ApiError::internal(&error))??))
}
