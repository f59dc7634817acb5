//! `POST /v2/_dvcr/storage/collect`: take away what nothing needs any more, or (`?dryRun=true`) tell what that is.
//!
//! The answer is JSON, when it is done. An extension, as [`super::stats`] is.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};

use super::Api;
use super::audit::Event;
use super::error::ApiError;
use super::query::Query;
use crate::registry::Collected;

pub(super) const PATH: &str = "/v2/_dvcr/storage/collect";

pub(super) async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let (extensions, collecting) = (parts.extensions.clone(), api.clone());
    // Goes on when the client goes away: what is begun is better ended.
    let collect = async move {
        let collected = collect(&collecting, &parts).await.map(Json);
        Event::told(Event::of_administration(&parts), collected.into_response())
    };
    let collected = api.spawn(&extensions, collect).await;
    collected.unwrap_or_else(|error| ApiError::internal(&error).into_response())
}

async fn collect(api: &Api, request: &Parts) -> Result<Collected, ApiError> {
    if request.method != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let only_look = Query::of(&request.uri).switch("dryRun")?;
    let outcome = api.registry.collect(only_look).await;
    if !only_look {
        api.metrics.collected(&outcome);
    }
    Ok(outcome?)
}
