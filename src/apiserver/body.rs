//! Bodies of requests: read as a whole, within limits.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::status::ApiError;

/// As in kube-apiserver.
const LIMIT: usize = 3 << 20;
/// For all of it. A client on the slowest line needs no more for 3 MiB.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) async fn read(parts: &Parts, body: Body) -> Result<Bytes, ApiError> {
    let announced =
        parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > LIMIT) {
        return Err(ApiError::too_large(LIMIT));
    }
    match tokio::time::timeout(PATIENCE, Limited::new(body, LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(LIMIT)),
        Ok(Err(_)) => Err(ApiError::bad_request("the body of the request ended early")),
        Err(_) => Err(ApiError::bad_request("the body of the request took too long")),
    }
}
