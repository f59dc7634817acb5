//! Whether a client may send one more request: the [`Limits`](super::limits) of its user, or of its address while nobody knows who it is.
//!
//! It comes behind the question who somebody is, which has limits of its own where it is dear, and in front of the answer, also if that
//! is that they may not.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Frame;

use super::access::{Need, Side};
use super::asker::client;
use super::error::ApiError;
use super::limits::{Client, Limit, Over, Pass};
use super::{Api, route};
use crate::auth::{Caller, OURS};

/// In the extensions of an answer to a request that was over a limit: there may be very many.
#[derive(Debug, Clone, Copy)]
pub(super) struct OverLimit;

/// In the extensions of a request that was let in: as long as there is one of these, it counts as being answered.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    _pass: Arc<Pass>,
}

/// Lets a request in, which ends when whoever works on it has dropped what this gives; or says what to answer.
pub(super) fn enter(api: &Api, request: &Parts, caller: Option<&Caller>) -> Result<InFlight, Box<Response>> {
    let pass = pass(api, request, caller)?;
    Ok(InFlight { _pass: Arc::new(pass) })
}

fn pass(api: &Api, request: &Parts, caller: Option<&Caller>) -> Result<Pass, Box<Response>> {
    // Whoever watches over the server must see it while it is flooded.
    if route::kind(request.uri.path()) == "health" {
        return Ok(Pass::free());
    }
    let user = caller.and_then(|caller| caller.identity().name());
    // All Jobs have one name, and each pod an address of its own.
    let person = user.filter(|user| !user.starts_with(OURS));
    let counted = person.map(Client::user).or_else(|| client(request).map(Client::address));
    // Who has neither is this process.
    let Some(counted) = counted else { return Ok(Pass::free()) };
    let now = Instant::now();
    api.limits.enter(counted, now).map_err(|over| Box::new(refuse(api, request, user, over, now)))
}

fn refuse(api: &Api, request: &Parts, user: Option<&str>, over: Over, now: Instant) -> Response {
    let limit = over.limit.as_str();
    api.metrics.limited(limit);
    if let Some(refused) = api.limits.refused(now) {
        let client = client(request).map(tracing::field::display);
        tracing::warn!(limit, refused, user, client, "requests over a limit are refused");
    }
    let message = match over.limit {
        Limit::Rate => "too many requests: come back a little later",
        Limit::Concurrency => "too many requests at one time: come back when some of them have ended",
    };
    let error = ApiError::over_limit(message, over.wait);
    let (side, _) = Need::of(&request.method, &request.uri);
    let mut answer = match side {
        Side::Kubernetes => error.into_status(),
        Side::Registry | Side::Files => error.into_response(),
    };
    answer.extensions_mut().insert(OverLimit);
    answer
}

/// An answer that counts as in flight until its last byte has been sent.
pub(super) fn until_sent(answer: Response, in_flight: InFlight) -> Response {
    let held = move |_: &Frame<Bytes>| {
        let _held = &in_flight;
    };
    answer.map(|body| Body::new(body.inspect_frame(held)))
}
