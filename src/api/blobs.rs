//! Blobs: GET, HEAD, DELETE.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;

use super::Api;
use super::error::ApiError;
use super::range::{Wanted, wanted};
use crate::oci::{Digest, ErrorCode, RepositoryName};

/// The digest of what an answer carries or is about.
pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// end-2
pub(super) async fn get(
    api: &Api,
    name: &RepositoryName,
    digest: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    let digest: Digest = digest.parse()?;
    let etag = etag(&digest);
    let common = [
        (ETAG, header(&etag)),
        (DOCKER_CONTENT_DIGEST, header(&digest.to_string())),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        // The name of a blob is its content.
        (CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable")),
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
    ];
    if request.method == Method::HEAD || none_match(&request.headers, &etag) {
        let size = api.registry.blob_size(name, &digest).await?;
        return Ok(if none_match(&request.headers, &etag) {
            (StatusCode::NOT_MODIFIED, common).into_response()
        } else {
            (common, [(CONTENT_LENGTH, size)]).into_response()
        });
    }
    let blob = api.registry.open_blob(name, &digest).await?;
    let size = blob.size();
    let (status, range) = match wanted(range_header(&request.headers, &etag), size) {
        Wanted::Whole => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Unsatisfiable => {
            let message = format!("the blob has {size} bytes, and the range is not in them");
            return Err(ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid, message)
                .with_header(CONTENT_RANGE, header(&format!("bytes */{size}"))));
        }
    };
    let length = [(CONTENT_LENGTH, range.end - range.start)];
    let content_range = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
    let stream = blob.stream(range).inspect_err(move |error| {
        // Too late for an answer: the connection breaks, so that the client knows.
        tracing::error!(error = error as &dyn std::error::Error, %digest, "failed to read a blob");
    });
    let mut response = (status, common, length, Body::from_stream(stream)).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        response.headers_mut().insert(CONTENT_RANGE, header(&content_range));
    }
    Ok(response)
}

/// end-10
pub(super) async fn delete(api: &Api, name: &RepositoryName, digest: &str) -> Result<Response, ApiError> {
    api.registry.delete_blob(name, &digest.parse()?).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The entity tag of content named by `digest`.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has what `etag` names.
pub(super) fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    })
}

/// A header of text that is known to be fit for one.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The `Range` header, unless `If-Range` says that the client has a part of something else.
fn range_header<'a>(headers: &'a HeaderMap, etag: &str) -> Option<&'a str> {
    match headers.get(IF_RANGE) {
        Some(condition) if condition.as_bytes() != etag.as_bytes() => None,
        _ => headers.get(RANGE)?.to_str().ok(),
    }
}
