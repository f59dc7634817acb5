//! `GET /v2/_dvcr/storage/stats`: what the registry holds, as JSON.
//!
//! An extension in the form that the specification gives them: `/v2/_<extension>/<component>/<module>`.

use axum::Json;
use axum::extract::State;

use super::Api;
use super::error::ApiError;
use crate::registry::Stats;

pub(super) const PATH: &str = "/v2/_dvcr/storage/stats";

/// Who asks while it is counted waits for that count to end, and then counts: each takes memory by the size of the registry.
pub(super) async fn get(State(api): State<Api>) -> Result<Json<Stats>, ApiError> {
    let _turn = api.counting.lock().await;
    Ok(Json(api.registry.stats().await?))
}
