//! The only place where a failure becomes a status and a code of the spec.

use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::oci::{ErrorCode, InvalidDigest, InvalidMediaType, InvalidName, InvalidReference, InvalidTag};
use crate::registry::Error;

/// An answer that is not a success: `{"errors":[{"code":…,"message":…,"detail":…}]}`.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    details: Vec<Value>,
    headers: HeaderMap,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Vec::new(), headers: HeaderMap::new() }
    }

    fn with_detail(mut self, detail: Value) -> Self {
        self.details.push(detail);
        self
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn no_such_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, "there is no such endpoint")
    }

    pub(super) fn method_not_allowed(allowed: &'static str) -> Self {
        let message = format!("the endpoint takes {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
            .with_header(ALLOW, HeaderValue::from_static(allowed))
    }

    /// A query parameter that cannot be understood. The spec has no code for it.
    pub(super) fn bad_parameter(name: &str, value: &str, wanted: &str) -> Self {
        let message = format!("parameter {name} must be {wanted}, not {value:?}");
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
    }

    /// A bug, or the process is going down. The cause goes to the log.
    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unsupported, "the request failed")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = |detail: Option<Value>| {
            let mut error = json!({ "code": self.code, "message": self.message });
            if let Some(detail) = detail {
                error["detail"] = detail;
            }
            error
        };
        let errors: Vec<Value> = if self.details.is_empty() {
            vec![error(None)]
        } else {
            self.details.into_iter().map(|detail| error(Some(detail))).collect()
        };
        let body = json!({ "errors": errors }).to_string();
        let mut response = (self.status, self.headers, body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        use ErrorCode as Code;
        use StatusCode as Status;
        let (status, code) = match &error {
            Error::BlobUnknown { .. } => (Status::NOT_FOUND, Code::BlobUnknown),
            Error::ManifestUnknown { .. } => (Status::NOT_FOUND, Code::ManifestUnknown),
            Error::RepositoryUnknown { .. } => (Status::NOT_FOUND, Code::NameUnknown),
            Error::SessionUnknown { .. } => (Status::NOT_FOUND, Code::BlobUploadUnknown),
            Error::OutOfOrder { .. } => (Status::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid),
            Error::SizeMismatch { .. } => (Status::BAD_REQUEST, Code::SizeInvalid),
            Error::DigestMismatch { .. } => (Status::BAD_REQUEST, Code::DigestInvalid),
            Error::ManifestInvalid(_) => (Status::BAD_REQUEST, Code::ManifestInvalid),
            Error::ManifestBlobUnknown { .. } => (Status::NOT_FOUND, Code::ManifestBlobUnknown),
            Error::BodyInterrupted => (Status::BAD_REQUEST, Code::BlobUploadInvalid),
            Error::BodyStalled { .. } => (Status::REQUEST_TIMEOUT, Code::BlobUploadInvalid),
            Error::Full => (Status::INSUFFICIENT_STORAGE, Code::Denied),
            Error::Store(_) => (Status::SERVICE_UNAVAILABLE, Code::Unsupported),
            Error::Record { .. } => (Status::INTERNAL_SERVER_ERROR, Code::Unsupported),
        };
        if status.is_server_error() {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
        }
        let answer = Self::new(status, code, error.to_string());
        match error {
            Error::BlobUnknown { digest, .. } => answer.with_detail(json!({ "digest": digest })),
            Error::DigestMismatch { expected, actual } => {
                answer.with_detail(json!({ "digest": expected, "actual": actual }))
            }
            Error::ManifestBlobUnknown { digests, .. } => digests
                .into_iter()
                .fold(answer, |answer, digest| answer.with_detail(json!({ "digest": digest }))),
            Error::BodyStalled { .. } => answer.with_header(CONNECTION, HeaderValue::from_static("close")),
            // object_store has tried again already; a client should wait longer than a moment.
            Error::Store(_) => answer.with_header(RETRY_AFTER, HeaderValue::from_static("5")),
            _ => answer,
        }
    }
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, error.to_string())
    }
}

impl From<InvalidDigest> for ApiError {
    fn from(error: InvalidDigest) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, error.to_string())
    }
}

impl From<InvalidTag> for ApiError {
    fn from(error: InvalidTag) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid, error.to_string())
    }
}

impl From<InvalidReference> for ApiError {
    fn from(error: InvalidReference) -> Self {
        match error {
            InvalidReference::Digest(error) => error.into(),
            InvalidReference::Tag(error) => error.into(),
        }
    }
}

impl From<InvalidMediaType> for ApiError {
    fn from(error: InvalidMediaType) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid, error.to_string())
    }
}
