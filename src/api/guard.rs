//! Lets requests in, or says what they lack: in front of every endpoint, also of those that are merged in.
//!
//! Clients of registries expect Docker's ways. A request that lacks a token is answered with 401 and where to get which one. So is
//! one whose token opens too little, if asking again can help; if it cannot, 403 ends it. `/v2/` asks for a token also
//! where strangers may pull: clients decide there whether to log in at all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::access::{Need, Side};
use super::asker::{client, credential};
use super::body::Incoming;
use super::error::{ApiError, Challenge};
use super::server::OverTls;
use super::{admission, audit, token};
use crate::auth::{Authority, Caller, Refusal, SERVICE};

/// How long the rest of a body is read that nobody wants.
const DRAIN: Duration = Duration::from_millis(500);

/// Hands a request on if it may be answered, with the [`Caller`] in its extensions.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let admitted = match &api.authority {
        None => Ok(Caller::trusted()),
        Some(authority) => admit(authority, &parts).await,
    };
    let known = match &admitted {
        Ok(caller) => Some(caller),
        Err((known, _)) => known.as_ref(),
    };
    let in_flight = match admission::enter(&api, &parts, known) {
        Ok(in_flight) => in_flight,
        Err(over) => {
            drain(&api, &parts, body).await;
            return *over;
        }
    };
    let answer = match admitted {
        Ok(caller) => {
            parts.extensions.insert(caller);
            parts.extensions.insert(in_flight.clone());
            next.run(Request::from_parts(parts, body)).await
        }
        Err((known, answer)) => {
            if let Some(caller) = known {
                parts.extensions.insert(caller);
            }
            let answer = audit::Event::told(audit::Event::of_refused(&parts), answer);
            drain(&api, &parts, body).await;
            answer
        }
    };
    admission::until_sent(answer, in_flight)
}

/// Reads for a moment what a client still sends that is refused: it might not see the answer otherwise.
async fn drain(api: &Api, request: &Parts, body: Body) {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let body = Incoming::new(body, api.settings.idle_timeout);
        let _ = tokio::time::timeout(DRAIN, body.drain(&request.headers)).await;
    }
}

/// Who asks, if they may; else what they are told, and who that is if it is known.
async fn admit(authority: &Arc<Authority>, request: &Parts) -> Result<Caller, (Option<Caller>, Response)> {
    let (side, need) = Need::of(&request.method, &request.uri);
    let answer = |error: ApiError| match side {
        Side::Kubernetes => error.into_status(),
        Side::Registry | Side::Files => error.into_response(),
    };
    if need == Need::Nothing {
        let nobody = authority.identify(None, None).await;
        return nobody.map_err(|refusal| (None, answer(refused(request, side, &need, &refusal))));
    }
    let credential = credential(&request.headers).map_err(|error| (None, answer(error)))?;
    let has_credential = credential.is_some();
    let identified = authority.identify(credential, client(request)).await;
    let caller = identified.map_err(|refusal| (None, answer(refused(request, side, &need, &refusal))))?;
    if need.is_met_by(&caller, has_credential) {
        return Ok(caller);
    }
    let scopes = need.scopes();
    let can_help = !has_credential || caller.identity().is_anonymous() || caller.could_ask_for(&scopes);
    if can_help {
        let error = has_credential.then_some("insufficient_scope");
        let message = "this takes credentials";
        let refused = answer(ApiError::unauthorized(message, &challenge(request, side, &need, error)));
        return Err((Some(caller), refused));
    }
    let user = caller.identity().shown();
    let wanted: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    tracing::debug!(user, wanted = wanted.join(" "), "denied");
    let denied = answer(ApiError::denied(user));
    Err((Some(caller), denied))
}

fn refused(request: &Parts, side: Side, need: &Need, refusal: &Refusal) -> ApiError {
    let error = matches!(refusal, Refusal::Token(_)).then_some("invalid_token");
    ApiError::refused(refusal, &challenge(request, side, need, error))
}

/// How to get in.
fn challenge(request: &Parts, side: Side, need: &Need, error: Option<&'static str>) -> Challenge {
    if side != Side::Registry {
        return Challenge::Basic;
    }
    let scopes: Vec<String> = need.scopes().iter().map(ToString::to_string).collect();
    Challenge::Bearer {
        realm: format!("{}{}", own_address(request), token::PATH),
        service: SERVICE,
        scope: scopes.join(" "),
        error,
    }
}

/// Where the client has reached us, which is where it can get a token too. It only ever misleads itself by what it says: so also
/// a proxy is believed that is not among those whose word counts for who the client is.
fn own_address(request: &Parts) -> String {
    let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let authority = request.uri.authority().map(ToString::to_string);
    let host = authority.or_else(|| text(HOST.as_str()).map(str::to_owned)).unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(*c)).collect();
    let is_tls = request.extensions.get::<OverTls>().is_some();
    // What a proxy that ends TLS says.
    let is_behind_tls = text("x-forwarded-proto").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let scheme = if is_tls || is_behind_tls { "https" } else { "http" };
    format!("{scheme}://{host}")
}
