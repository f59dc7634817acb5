//! Failures, in the words of kube-apiserver.
//!
//! Every answer that is not a success is a `v1` `Status`. Clients decide by its `reason`, and people read its
//! `message`, so both are what kube-apiserver says. This is the only place that knows which HTTP status a reason has.

use crate::apimachinery::{Cause, Conflict, PatchError, SelectorError};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::metadata;
use super::resource::Resource;
use super::store::WriteError;

/// A failure on its way to the client.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Map<String, Value>,
    allow: Option<&'static str>,
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new(), allow: None }
    }

    fn detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// About one object, which the details name. `kind` is the plural there, as in kube-apiserver.
    fn about(self, resource: &Resource, name: &str) -> Self {
        let this = if name.is_empty() { self } else { self.detail("name", name) };
        let this =
            if resource.group.is_empty() { this } else { this.detail("group", resource.group.as_str()) };
        this.detail("kind", resource.plural.as_str())
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    pub(super) fn no_such_namespace(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("namespaces \"{name}\" not found"))
            .detail("name", name)
            .detail("kind", "namespaces")
    }

    /// The path means nothing here.
    pub(super) fn no_such_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let message = "the server does not allow this method on the requested resource";
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message);
        Self { allow: Some(allow), ..error }
    }

    pub(super) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/json;as=Table;v=v1;g=meta.k8s.io, \
                       application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(super) fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub(super) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    pub(super) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    /// Somebody else has written since the client read.
    pub(super) fn modified(resource: &Resource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    pub(super) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(resource, name)
    }

    /// The namespace is on its way out.
    pub(super) fn terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Self::forbidden(resource, name, &why).detail("causes", cause)
    }

    /// The object breaks rules; all of them are told at once.
    pub(super) fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let subject = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let error = Self::invalid_subject(&format!("{subject} \"{name}\""), causes).about(resource, name);
        error.detail("kind", resource.kind.as_str())
    }

    /// The object says that it is of another kind, or of another version.
    pub(super) fn wrong_type(resource: &Resource, object: &Value, cause: Cause) -> Self {
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        let subject =
            if group.is_empty() { text("kind").to_owned() } else { format!("{}.{group}", text("kind")) };
        let name = metadata::text(object, "name");
        Self::invalid_subject(&format!("{subject} \"{name}\""), &[cause])
            .about(resource, name)
            .detail("kind", text("kind"))
    }

    /// The options of a request break rules, which is told in the way of objects that do.
    pub(super) fn invalid_options(kind: &str, cause: Cause) -> Self {
        Self::invalid_subject(&format!("{kind}.meta.k8s.io \"\""), &[cause])
            .detail("group", "meta.k8s.io")
            .detail("kind", kind)
    }

    /// Something without a kind of its own, such as a patch, breaks rules.
    pub(super) fn invalid_subject(subject: &str, causes: &[Cause]) -> Self {
        let mut sentences: Vec<String> = Vec::new();
        for cause in causes {
            let sentence = if cause.field.is_empty() {
                cause.message.clone()
            } else {
                format!("{}: {}", cause.field, cause.message)
            };
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
        let whole = match sentences.as_slice() {
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| {
                json!({ "reason": cause.reason.as_str(), "message": cause.message, "field": cause.field })
            })
            .collect();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{subject} is invalid: {whole}"))
            .detail("causes", causes)
    }

    /// What was applied has fields that the schema does not have. kube-apiserver gives it no better reason.
    pub(super) fn not_declared(resource: &Resource, namespace: &str, name: &str, fields: &[String]) -> Self {
        let fields: Vec<String> =
            fields.iter().map(|field| format!(".{field}: field not declared in schema")).collect();
        let fields = match fields.as_slice() {
            [only] => only.clone(),
            several => format!("errors:\n  {}", several.join("\n  ")),
        };
        let message = format!(
            "failed to create typed patch object ({namespace}/{name}; {}/{}, Kind={}): {fields}",
            resource.group, resource.version, resource.kind
        );
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// Other field managers own what was applied.
    pub(super) fn apply_conflict(conflicts: &[Conflict]) -> Self {
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|conflict| {
                json!({
                    "reason": "FieldManagerConflict",
                    "message": conflict.cause_message(),
                    "field": conflict.field,
                })
            })
            .collect();
        Self::new(StatusCode::CONFLICT, "Conflict", Conflict::summary(conflicts)).detail("causes", causes)
    }

    /// A watch, or a list of the past, that begins before what is still known.
    pub(super) fn too_old(wanted: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {wanted} ({oldest})");
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// A further page of a list that began too long ago.
    pub(super) fn page_expired() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You \
                       must start a new list without the continue parameter.";
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// A version that does not exist yet: of another database, mostly.
    pub(super) fn too_new(wanted: u64, newest: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {newest}");
        let cause = json!([{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }]);
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
            .detail("causes", cause)
            .detail("retryAfterSeconds", 1)
    }

    /// The disk is full.
    pub(super) fn full() -> Self {
        let message =
            "the registry has no space left, so that nothing can be changed; what there is can be read";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", message)
    }

    /// A bug, or a disk that fails. The cause goes to the log.
    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        let message = format!("Internal error occurred: {error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The object that the client reads.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details.clone());
        }
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code, self.status().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match &error {
            WriteError::Database(cause) if cause.is_full() => Self::full(),
            _ => Self::internal(&error),
        }
    }
}

impl From<SelectorError> for ApiError {
    fn from(error: SelectorError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        let message = error.to_string();
        match error {
            PatchError::Malformed(_) => Self::bad_request(message),
            PatchError::Inapplicable(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message),
            PatchError::TooLarge(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
            }
        }
    }
}
