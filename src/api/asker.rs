//! Who sends a request, as far as it says so itself or the guard has found out.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::error::ApiError;
use super::origin::Origin;
use crate::auth::{Caller, Credential};

/// Who asks. A request that did not pass the guard is nobody's.
pub(super) fn caller(request: &Parts) -> Option<&Caller> {
    request.extensions.get()
}

/// What a request says of who sends it.
pub(super) fn credential(headers: &HeaderMap) -> Result<Option<Credential>, ApiError> {
    let header = headers.get(AUTHORIZATION);
    let parsed = header.map(|header| Credential::parse(header.as_bytes())).transpose();
    parsed.map_err(|error| ApiError::bad_request(error.to_string()))
}

/// Where a request comes from.
pub(super) fn client(request: &Parts) -> Option<IpAddr> {
    request.extensions.get::<Origin>().map(|origin| origin.address)
}
