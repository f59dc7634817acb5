//! Creating and replacing objects.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::USER_AGENT;
use axum::response::Response;
use serde_json::{Value, json};

use super::admission::Asked;
use super::incoming::{self, Warnings};
use super::negotiate::{form, object_body};
use super::render::View;
use super::resource::Resource;
use super::router::{Call, Target, answer, told};
use super::status::ApiError;
use super::store::{Key, Mode};
use super::strategy::{Ownership, Strategy, Written};
use super::{cause, metadata};

/// Of the name of a field manager.
const MAX_MANAGER: usize = 128;

pub(super) async fn create(
    call: &Call<'_>,
    resource: Arc<Resource>,
    namespace: String,
    body: Bytes,
) -> Result<Response, ApiError> {
    let encoding = object_body(&call.parts.headers, &resource)?;
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let mode = call.query.mode()?;
    let strategy = strategy(call, Arc::clone(&resource), false)?;
    let (mut object, warnings) =
        incoming::object(&resource, &body, encoding, call.query.field_validation()?)?;
    incoming::place(&mut object, &namespace, None)?;
    let written = call
        .server
        .inner
        .store
        .write(mode, move |transaction| strategy.create(transaction, object, Ownership::Changed))
        .await?;
    let response = answer(StatusCode::CREATED, &shown(call, &resource, view, mode, &written), &warnings);
    Ok(told(response, mode, Some(written.object.key.name())))
}

pub(super) async fn replace(call: &Call<'_>, target: Target, body: Bytes) -> Result<Response, ApiError> {
    let encoding = object_body(&call.parts.headers, &target.resource)?;
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let mode = call.query.mode()?;
    let Target { resource, namespace, name, status } = target;
    let strategy = strategy(call, Arc::clone(&resource), status)?;
    let (mut object, warnings) =
        incoming::object(&resource, &body, encoding, call.query.field_validation()?)?;
    incoming::place(&mut object, &namespace, Some(&name))?;
    let written = call
        .server
        .inner
        .store
        .write(mode, move |transaction| {
            let key = Key::new(&strategy.resource.storage, &namespace, &name);
            let old = transaction.get(&key).ok_or_else(|| ApiError::not_found(&strategy.resource, &name))?;
            check_has_version(&strategy.resource, &object, &name)?;
            check_is_same(&strategy.resource, &object, &old.value, &name)?;
            strategy.update(transaction, &old, object, Ownership::Changed)
        })
        .await?;
    let response = answer(StatusCode::OK, &shown(call, &resource, view, mode, &written), &warnings);
    Ok(told(response, mode, None))
}

/// A custom object is not replaced blindly.
fn check_has_version(resource: &Resource, object: &Value, name: &str) -> Result<(), ApiError> {
    if resource.builtin.is_some() || !metadata::text(object, "resourceVersion").is_empty() {
        return Ok(());
    }
    let why = "must be specified for an update";
    Err(ApiError::invalid(resource, name, &[cause::invalid("metadata.resourceVersion", &json!(0), why)]))
}

/// What replaces an object is not meant for another one that had its name.
fn check_is_same(resource: &Resource, object: &Value, old: &Value, name: &str) -> Result<(), ApiError> {
    let (wanted, found) = (metadata::text(object, "uid"), metadata::text(old, "uid"));
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    Err(ApiError::conflict(resource, name, &why))
}

/// How this request writes.
pub(super) fn strategy(call: &Call<'_>, resource: Arc<Resource>, status: bool) -> Result<Strategy, ApiError> {
    let manager = match call.query.get("fieldManager") {
        Some(manager) => {
            let field = "fieldManager";
            if manager.len() > MAX_MANAGER {
                return Err(ApiError::invalid_options("CreateOptions", cause::too_long(field, MAX_MANAGER)));
            }
            if manager.chars().any(char::is_control) {
                let cause =
                    cause::invalid(field, &json!(manager), "should only contain printable characters");
                return Err(ApiError::invalid_options("CreateOptions", cause));
            }
            manager.to_owned()
        }
        None => default_manager(call),
    };
    let inner = &call.server.inner;
    let admission =
        inner.admission.clone().map(|admission| Asked { admission, asker: call.parts.extensions.clone() });
    Ok(Strategy { resource, status, manager, now: inner.clock.now(), admission })
}

/// What the client calls itself: `kubectl` of `kubectl/v1.34.0 (linux/amd64)`.
fn default_manager(call: &Call<'_>) -> String {
    let agent = call.parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let name: String = agent.split('/').next().unwrap_or_default().chars().take(MAX_MANAGER).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// The object that was written. A dry run gives it the version that it still has.
pub(super) fn shown(
    call: &Call<'_>,
    resource: &Resource,
    view: View,
    mode: Mode,
    written: &Written,
) -> Value {
    let now = call.server.inner.clock.now();
    if mode == Mode::Commit {
        return view.object(resource, &written.object.value, now);
    }
    let mut value = written.object.value.clone();
    match written.previous {
        Some(version) => metadata::set(&mut value, "resourceVersion", json!(version.to_string())),
        None => {
            if let Some(metadata) = metadata::of_mut(&mut value) {
                metadata.remove("resourceVersion");
            }
        }
    }
    view.object(resource, &value, now)
}

/// The answer to a write that has created or changed an object.
pub(super) fn written_answer(
    call: &Call<'_>,
    resource: &Resource,
    view: View,
    mode: Mode,
    (written, warnings): &(Written, Warnings),
) -> Response {
    let status = if written.previous.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    told(answer(status, &shown(call, resource, view, mode, written), warnings), mode, None)
}
