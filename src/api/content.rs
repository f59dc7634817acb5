//! A GET or HEAD of bytes that have a name for ever: whole, one range of them, or not at all because the client has them.

use std::ops::Range;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt as _;

use super::blobs::{header, none_match};
use super::error::ApiError;
use super::range::{Wanted, wanted};
use crate::oci::ErrorCode;
use crate::registry::ByteStream;

/// Bytes that can be asked for.
pub(super) struct Content<'a> {
    /// What they are to people: "the blob", "the disk".
    pub(super) what: &'static str,
    /// Their entity tag.
    pub(super) etag: &'a str,
    pub(super) size: u64,
    /// Further headers of every answer.
    pub(super) headers: HeaderMap,
}

impl Content<'_> {
    /// Answers a request; `read` gives the bytes of a range.
    pub(super) fn answer(
        self,
        request: &Parts,
        read: impl FnOnce(Range<u64>) -> ByteStream,
    ) -> Result<Response, ApiError> {
        let Self { what, etag, size, headers } = self;
        let common = [
            (ETAG, header(etag)),
            (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
            (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        ];
        if none_match(&request.headers, etag) {
            return Ok((StatusCode::NOT_MODIFIED, common, headers).into_response());
        }
        if request.method == Method::HEAD {
            return Ok((common, headers, [(CONTENT_LENGTH, size)]).into_response());
        }
        let (status, range) = match wanted(range_header(&request.headers, etag), size) {
            Wanted::Whole => (StatusCode::OK, 0..size),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Unsatisfiable => {
                let message = format!("{what} has {size} bytes, and the range is not in them");
                return Err(ApiError::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    ErrorCode::SizeInvalid,
                    message,
                )
                .with_header(CONTENT_RANGE, header(&format!("bytes */{size}"))));
            }
        };
        let length = [(CONTENT_LENGTH, range.end - range.start)];
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
        let name = etag.to_owned();
        let stream = read(range).inspect_err(move |error| {
            // Too late for an answer: the connection breaks, so that the client knows.
            tracing::error!(error = error as &dyn std::error::Error, name, "failed to read {what}");
        });
        let mut response = (status, common, headers, length, Body::from_stream(stream)).into_response();
        if status == StatusCode::PARTIAL_CONTENT {
            response.headers_mut().insert(CONTENT_RANGE, header(&content_range));
        }
        Ok(response)
    }
}

/// The `Range` header, unless `If-Range` says that the client has a part of something else.
fn range_header<'a>(headers: &'a HeaderMap, etag: &str) -> Option<&'a str> {
    match headers.get(IF_RANGE) {
        Some(condition) if condition.as_bytes() != etag.as_bytes() => None,
        _ => headers.get(RANGE)?.to_str().ok(),
    }
}
