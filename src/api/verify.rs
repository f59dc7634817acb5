//! `POST /v2/_dvcr/storage/verify`: look whether what is stored is there, and is what was pushed.
//!
//! `?depth=quick`, `stored` or `deep` says how much is read, `?rate=` how many stored bytes in a second, `?dryRun=true` that nothing
//! is put aside, `?restart=true` that one that was broken off is not gone on with. The answer is a line of JSON for each thing
//! that happens; a client that goes away, and a server that is to stop, break it off. An extension, as [`super::stats`] is.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;

use super::admission::InFlight;
use super::audit::Event;
use super::error::ApiError;
use super::query::Query;
use super::{Api, ndjson};
use crate::oci::ErrorCode;
use crate::registry::{Depth, Verification};

pub(super) const PATH: &str = "/v2/_dvcr/storage/verify";

pub(super) async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answer = verify(&api, &parts);
    Event::told(Event::of_administration(&parts), answer.unwrap_or_else(IntoResponse::into_response))
}

fn verify(api: &Api, request: &Parts) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(ApiError::method_not_allowed("POST"));
    }
    let query = Query::of(&request.uri);
    let wanted = Verification {
        depth: match query.get("depth") {
            Some("quick") => Depth::Quick,
            None | Some("stored") => Depth::Stored,
            Some("deep") => Depth::Deep,
            Some(other) => return Err(ApiError::bad_parameter("depth", other, "quick, stored or deep")),
        },
        rate: match query.get("rate").map(|text| (text, text.parse::<u64>())) {
            None => None,
            Some((_, Ok(rate))) if rate > 0 => Some(rate),
            Some((text, _)) => return Err(ApiError::bad_parameter("rate", text, "bytes in a second")),
        },
        only_look: query.switch("dryRun")?,
        restart: query.switch("restart")?,
    };
    let Ok(turn) = Arc::clone(&api.verifying).try_lock_owned() else {
        let message = "what is stored is being verified already";
        return Err(ApiError::new(StatusCode::CONFLICT, ErrorCode::Denied, message));
    };
    let (lines, events) = mpsc::channel(ndjson::AHEAD);
    let (registry, stopping) = (Arc::clone(&api.registry), api.stopping.clone());
    let metrics = Arc::clone(&api.metrics);
    let in_flight: Option<InFlight> = request.extensions.get().cloned();
    tokio::spawn(async move {
        let _held = (turn, in_flight);
        let verified = stopping.run_until_cancelled(registry.verify(wanted, &lines)).await;
        let Some(outcome) = verified else { return };
        metrics.verified(&outcome);
        if let Err(error) = outcome {
            tracing::error!(error = &error as &dyn std::error::Error, "a verification failed");
        }
    });
    Ok(ndjson::answer(events))
}
