//! Objects from outside, before anything is done with them: is it one, is it of this kind, is all of it known?

use axum::http::HeaderValue;
use serde_json::Value;

use super::cause;
use super::decode::{self, Decoded};
use super::metadata;
use super::negotiate::Encoding;
use super::protobuf;
use super::query::FieldValidation;
use super::resource::Resource;
use super::status::ApiError;

/// A header with more would be refused by clients.
const MAX_WARNINGS: usize = 20;

/// What the client is told besides the answer.
#[derive(Debug, Default)]
pub(super) struct Warnings(Vec<String>);

impl Warnings {
    /// As `Warning` headers: RFC 9111 had them, and kubectl shows them.
    pub(super) fn headers(&self) -> impl Iterator<Item = HeaderValue> {
        let quoted = self.0.iter().map(|text| text.replace('\\', "\\\\").replace('"', "\\\""));
        quoted.filter_map(|text| HeaderValue::from_str(&format!("299 - \"{text}\"")).ok())
    }
}

/// An object of a request's body.
pub(super) fn object(
    resource: &Resource,
    body: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
) -> Result<(Value, Warnings), ApiError> {
    let unreadable = |why: &str| {
        let message =
            format!("the object provided is unrecognized (must be of type {}): {why}", resource.kind);
        ApiError::bad_request(message)
    };
    let Decoded { mut value, duplicates } = match encoding {
        Encoding::Json => decode::json(body).map_err(|error| unreadable(&error.to_string()))?,
        Encoding::Protobuf => {
            let value = protobuf::decode(body).ok_or_else(|| unreadable("the protobuf cannot be read"))?;
            Decoded { value, duplicates: Vec::new() }
        }
    };
    let unknown = known_part(resource, &mut value)?;
    let complaints = complaints(&duplicates, &unknown);
    let warnings = judge(complaints, validation, |complaints| {
        unhandled(resource, &format!("strict decoding error: {}", complaints.join(", ")))
    })?;
    Ok((value, warnings))
}

/// Checks that a value is an object of this kind, and removes what is not known of such. Returns the paths removed.
pub(super) fn known_part(resource: &Resource, value: &mut Value) -> Result<Vec<String>, ApiError> {
    check_type(resource, value)?;
    let mut unknown = metadata::normalize(value).map_err(|why| unhandled(resource, &why))?;
    unknown.extend(resource.schema.prune(value));
    Ok(unknown)
}

/// Fails, warns or is silent, as the client wishes.
pub(super) fn judge(
    complaints: Vec<String>,
    validation: FieldValidation,
    fail: impl FnOnce(&[String]) -> ApiError,
) -> Result<Warnings, ApiError> {
    match validation {
        FieldValidation::Strict if !complaints.is_empty() => Err(fail(&complaints)),
        FieldValidation::Warn => Ok(Warnings(complaints)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Warnings::default()),
    }
}

/// What there is to say about keys that are there twice and fields that are not known.
pub(super) fn complaints(duplicates: &[String], unknown: &[String]) -> Vec<String> {
    let duplicates = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    duplicates.chain(unknown).take(MAX_WARNINGS).collect()
}

/// The kind and the apiVersion. Built-in kinds may leave them out, since the path says them.
fn check_type(resource: &Resource, value: &mut Value) -> Result<(), ApiError> {
    let Some(object) = value.as_object_mut() else {
        let message = "couldn't get version/kind; json parse error: the body is not an object";
        return Err(ApiError::bad_request(message));
    };
    for (field, wanted) in [("kind", resource.kind.clone()), ("apiVersion", resource.api_version())] {
        let is_missing = object.get(field).is_none_or(|given| given.is_null() || given == "");
        if is_missing && resource.builtin.is_some() {
            object.insert(field.to_owned(), wanted.into());
        } else if is_missing && field == "kind" {
            let message = format!(
                "the object provided is unrecognized (must be of type {wanted}): Object 'Kind' is missing in it"
            );
            return Err(ApiError::bad_request(message));
        }
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let wanted = resource.api_version();
    if text("apiVersion") != wanted {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({wanted})",
            text("apiVersion")
        )));
    }
    if text("kind") != resource.kind {
        let kind = value.get("kind").unwrap_or(&Value::Null);
        let cause = cause::invalid("kind", kind, &format!("must be {}", resource.kind));
        return Err(ApiError::wrong_type(resource, value, cause));
    }
    Ok(())
}

/// Server-side apply has a sentence of its own for that.
pub(super) fn check_applied_type(resource: &Resource, applied: &Value) -> Result<(), ApiError> {
    let text = |field: &str| applied.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version == resource.api_version() && kind == resource.kind {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("invalid object type: {api_version}, Kind={kind}")))
}

/// The body is an object of this kind, but not a good one.
pub(super) fn unhandled(resource: &Resource, why: &str) -> ApiError {
    let Resource { kind, version, .. } = resource;
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// Checks the name and the namespace of an object against the path, and fills them in where they are missing.
pub(super) fn place(object: &mut Value, namespace: &str, name: Option<&str>) -> Result<(), ApiError> {
    match metadata::text(object, "namespace") {
        "" if namespace.is_empty() => {}
        "" => metadata::set(object, "namespace", namespace.into()),
        given if given == namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    let Some(name) = name else { return Ok(()) };
    match metadata::text(object, "name") {
        "" => metadata::set(object, "name", name.into()),
        given if given == name => {}
        given => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
    }
    Ok(())
}
