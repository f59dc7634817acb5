//! The only place where a failure becomes a status and a code of the spec.

use std::time::Duration;

use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::audit::Interrupted;
use crate::artifact::SelectionError;
use crate::auth::Refusal;
use crate::bare_disk::BareDiskError;
use crate::oci::{
    ErrorCode, InvalidDigest, InvalidMediaType, InvalidName, InvalidReference, InvalidTag, RepositoryName,
};
use crate::registry::Error;

/// A code of an answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Code {
    /// One of the spec's, which are all about what the client did.
    Spec(ErrorCode),
    /// Docker's for what is nobody's fault. Its client tries again on these, and would not on `UNSUPPORTED`.
    Docker(&'static str),
}

const UNAVAILABLE: Code = Code::Docker("UNAVAILABLE");
const UNKNOWN: Code = Code::Docker("UNKNOWN");

/// An answer that is not a success: `{"errors":[{"code":…,"message":…,"detail":…}]}`.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: Code,
    message: String,
    details: Vec<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The body broke off.
    interrupted: Option<Interrupted>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self::with_code(status, Code::Spec(code), message)
    }

    fn with_code(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        let (message, details, headers) = (message.into(), Vec::new(), Vec::new());
        Self { status, code, message, details, headers, interrupted: None }
    }

    fn with_detail(mut self, detail: Value) -> Self {
        self.details.push(detail);
        self
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
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
        Self::with_code(StatusCode::INTERNAL_SERVER_ERROR, UNKNOWN, "the request failed")
    }
}

/// How a client can say who it is.
#[derive(Debug)]
pub(super) enum Challenge {
    /// By user and password.
    Basic,
    /// By a token from `realm`. RFC 6750 and Docker's token specification.
    Bearer { realm: String, service: &'static str, scope: String, error: Option<&'static str> },
}

impl Challenge {
    fn header(&self) -> HeaderValue {
        let text = match self {
            Self::Basic => "Basic realm=\"dvcr\", charset=\"UTF-8\"".to_owned(),
            Self::Bearer { realm, service, scope, error } => {
                // Without spaces between them, as some clients want it.
                let scope = if scope.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
                let error = error.map(|error| format!(",error=\"{error}\"")).unwrap_or_default();
                format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}{error}")
            }
        };
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Basic realm=\"dvcr\""))
    }
}

/// Who may what.
impl ApiError {
    /// Nobody, or not enough, is known about who asks.
    pub(super) fn unauthorized(message: impl Into<String>, challenge: &Challenge) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with_header(WWW_AUTHENTICATE, challenge.header())
    }

    /// It is known who asks, and they may not.
    pub(super) fn denied(user: &str) -> Self {
        let message = format!("{user} may not do this here");
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    /// Nobody changes a repository that is there for something else.
    pub(super) fn reserved(name: &RepositoryName) -> Self {
        let message = format!("{name} is kept for a file that is uploaded for an image");
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    /// It is somebody who may, and not just now.
    pub(super) fn over_limit(message: &str, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
            .with_header(RETRY_AFTER, seconds.into())
    }

    /// What somebody says of themselves does not hold.
    pub(super) fn refused(refusal: &Refusal, challenge: &Challenge) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Wrong | Refusal::Token(_) => Self::unauthorized(message, challenge),
            Refusal::Throttled(wait) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
                    .with_header(RETRY_AFTER, (wait.as_secs() + 1).into())
            }
            Refusal::Unavailable(_) => Self::with_code(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, message)
                .with_header(RETRY_AFTER, HeaderValue::from_static("5")),
        }
    }

    /// The request makes no sense.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
    }

    /// The same in the words of Kubernetes, which its clients show.
    pub(super) fn into_status(self) -> Response {
        let reason = match self.status {
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            StatusCode::BAD_REQUEST => "BadRequest",
            _ => "ServiceUnavailable",
        };
        let body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": reason,
            "code": self.status.as_u16(),
        });
        let mut response = (self.status, body.to_string()).into_response();
        response.headers_mut().extend(self.headers);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
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
        let mut response = (self.status, body).into_response();
        if let Some(interrupted) = self.interrupted {
            response.extensions_mut().insert(interrupted);
        }
        response.headers_mut().extend(self.headers);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        use StatusCode as Status;
        let (status, code) = match &error {
            Error::BlobUnknown { .. } => (Status::NOT_FOUND, Code::Spec(ErrorCode::BlobUnknown)),
            Error::ManifestUnknown { .. } => (Status::NOT_FOUND, Code::Spec(ErrorCode::ManifestUnknown)),
            Error::RepositoryUnknown { .. } => (Status::NOT_FOUND, Code::Spec(ErrorCode::NameUnknown)),
            Error::SessionUnknown { .. } => (Status::NOT_FOUND, Code::Spec(ErrorCode::BlobUploadUnknown)),
            Error::OutOfOrder { .. } => {
                (Status::RANGE_NOT_SATISFIABLE, Code::Spec(ErrorCode::BlobUploadInvalid))
            }
            Error::SizeMismatch { .. } => (Status::BAD_REQUEST, Code::Spec(ErrorCode::SizeInvalid)),
            Error::DigestMismatch { .. } => (Status::BAD_REQUEST, Code::Spec(ErrorCode::DigestInvalid)),
            Error::ManifestInvalid(_) => (Status::BAD_REQUEST, Code::Spec(ErrorCode::ManifestInvalid)),
            Error::ManifestBlobUnknown { .. } => {
                (Status::NOT_FOUND, Code::Spec(ErrorCode::ManifestBlobUnknown))
            }
            Error::BodyInterrupted | Error::BodyRefused { .. } => {
                (Status::BAD_REQUEST, Code::Spec(ErrorCode::BlobUploadInvalid))
            }
            Error::BodyStalled { .. } => (Status::REQUEST_TIMEOUT, Code::Spec(ErrorCode::BlobUploadInvalid)),
            // Docker and skopeo try again on 5xx, and skopeo on 429: in vain, until somebody has deleted something. Harbor says 403 too.
            Error::QuotaExceeded(_) => (Status::FORBIDDEN, Code::Spec(ErrorCode::Denied)),
            Error::Full => (Status::INSUFFICIENT_STORAGE, UNAVAILABLE),
            Error::Store(_) | Error::BodyUnavailable { .. } | Error::Collecting => {
                (Status::SERVICE_UNAVAILABLE, UNAVAILABLE)
            }
            Error::Record { .. } => (Status::INTERNAL_SERVER_ERROR, UNKNOWN),
        };
        if status.is_server_error() {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
        }
        let is_interrupted = matches!(error, Error::BodyInterrupted | Error::BodyStalled { .. });
        let interrupted = is_interrupted.then_some(Interrupted);
        let answer = Self { interrupted, ..Self::with_code(status, code, error.to_string()) };
        match error {
            Error::BlobUnknown { digest, .. } => answer.with_detail(json!({ "digest": digest })),
            Error::DigestMismatch { expected, actual } => {
                answer.with_detail(json!({ "digest": expected, "actual": actual }))
            }
            Error::ManifestBlobUnknown { digests, .. } => digests
                .into_iter()
                .fold(answer, |answer, digest| answer.with_detail(json!({ "digest": digest }))),
            Error::QuotaExceeded(exceeded) => answer.with_detail(json!({
                "quota": exceeded.quota,
                "unit": exceeded.unit,
                "limit": exceeded.limit,
                "used": exceeded.used,
                "wanted": exceeded.wanted,
            })),
            Error::BodyStalled { .. } => answer.with_header(CONNECTION, HeaderValue::from_static("close")),
            // object_store has tried again already; a client should wait longer than a moment.
            Error::Store(_) | Error::BodyUnavailable { .. } | Error::Collecting => {
                answer.with_header(RETRY_AFTER, HeaderValue::from_static("5"))
            }
            _ => answer,
        }
    }
}

impl From<BareDiskError> for ApiError {
    fn from(error: BareDiskError) -> Self {
        let status = match error {
            BareDiskError::Registry(error) => return error.into(),
            BareDiskError::Broken(_) => return Self::internal(&error),
            BareDiskError::Selection(SelectionError::NoPlatform { .. }) => StatusCode::NOT_FOUND,
            BareDiskError::Selection(_) | BareDiskError::Unpack(_) | BareDiskError::Compressed { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        };
        Self::new(status, ErrorCode::Unsupported, error.to_string())
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
