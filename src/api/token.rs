//! `/token`: the built-in issuer, as Docker's token specification and its `OAuth2` variant have it.
//!
//! What is asked for and not allowed is left out of the token rather than refused: the registry then says what is missing, when
//! it is really needed.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Api;
use super::asker::{client, credential};
use super::body::Incoming;
use super::error::{ApiError, Challenge};
use super::query::Query;
use crate::auth::{Authority, Credential, Issued, Known, Refusal, Scope};

/// Where tokens are given out.
pub(super) const PATH: &str = "/token";

/// The largest form. A token of somebody else may be a few KiB.
const LARGEST_FORM: usize = 64 << 10;

pub(super) async fn handle(State(api): State<Api>, request: Request) -> Response {
    let Some(authority) = &api.authority else { return ApiError::no_such_endpoint().into_response() };
    let (parts, body) = request.into_parts();
    let answer = match parts.method {
        Method::GET | Method::HEAD => get(authority, &parts).await,
        Method::POST => post(authority, &parts, Incoming::new(body, api.settings.idle_timeout)).await,
        _ => Err(ApiError::method_not_allowed("GET, HEAD, POST")),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

/// A token for whoever the header says, or for nobody.
async fn get(authority: &Authority, request: &Parts) -> Result<Response, ApiError> {
    let query = Query::of(&request.uri);
    let known = match credential(&request.headers)? {
        None => Known::anonymous(),
        Some(Credential::Basic { user, password }) => {
            authority.login(&user, &password, client(request)).await.map_err(|refusal| refused(&refusal))?
        }
        Some(Credential::Bearer(_)) => {
            return Err(ApiError::bad_request("a token is given for a user and a password, by Basic"));
        }
    };
    let scopes = Scope::parse_all(query.all("scope"));
    let wants_refresh = query.get("offline_token") == Some("true");
    Ok(answer(authority, &known, &scopes, wants_refresh))
}

/// The same by a form, for those who speak `OAuth2`.
async fn post(authority: &Authority, request: &Parts, mut body: Incoming) -> Result<Response, ApiError> {
    let Some(form) = body.whole(LARGEST_FORM).await? else {
        return Err(ApiError::bad_request(format!("the form has more than {LARGEST_FORM} bytes")));
    };
    let form = Query::of_form(&form);
    let wanted =
        |name: &str| form.get(name).ok_or_else(|| ApiError::bad_request(format!("the form has no {name}")));
    let known = match wanted("grant_type")? {
        "password" => {
            let (user, password) = (wanted("username")?, wanted("password")?);
            authority.login(user, password, client(request)).await.map_err(|refusal| refused(&refusal))?
        }
        "refresh_token" => {
            authority.refreshed(wanted("refresh_token")?).map_err(|refusal| refused(&refusal))?
        }
        other => {
            return Err(ApiError::bad_parameter("grant_type", other, "password or refresh_token"));
        }
    };
    let scopes = Scope::parse_all(form.all("scope"));
    let wants_refresh = form.get("access_type") == Some("offline");
    Ok(answer(authority, &known, &scopes, wants_refresh))
}

fn refused(refusal: &Refusal) -> ApiError {
    ApiError::refused(refusal, &Challenge::Basic)
}

fn answer(authority: &Authority, known: &Known, scopes: &[Scope], wants_refresh: bool) -> Response {
    let Issued { token, lifetime, issued } = authority.grant(known, scopes);
    let shown: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    tracing::debug!(user = known.identity().shown(), asked = shown.join(" "), "gave a token");
    let mut body = json!({
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": lifetime.as_secs(),
        "issued_at": issued_at(issued),
    });
    if let Some(refresh) = authority.remember(known).filter(|_| wants_refresh) {
        body["refresh_token"] = Value::String(refresh);
    }
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body.to_string()).into_response()
}

/// A time as RFC 3339 has it.
fn issued_at(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = Timestamp::from_second(i64::try_from(seconds).unwrap_or_default());
    time.unwrap_or_default().to_string()
}
