//! Deleting. Whoever has a finalizer on an object is waited for.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::builtin::{Builtin, DEFAULT};
use super::clock::rfc3339;
use super::incoming::Warnings;
use super::list::range;
use super::metadata;
use super::negotiate::{form, json_body};
use super::query::{Query, dry_run};
use super::render::View;
use super::resource::Resource;
use super::router::{Call, Target, answer, told};
use super::status::ApiError;
use super::store::{Key, Mode, Object, Range, Transaction};
use super::{cause, decode};

pub(super) async fn object(call: &Call<'_>, target: Target, body: Bytes) -> Result<Response, ApiError> {
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let options = Options::read(call, &body)?;
    let mode = options.mode;
    let now = call.server.inner.clock.now();
    let Target { resource, namespace, name, .. } = target;
    let deleting = Arc::clone(&resource);
    let deleted = call
        .server
        .inner
        .store
        .write(mode, move |transaction| {
            let key = Key::new(&deleting.storage, &namespace, &name);
            let object = transaction.get(&key).ok_or_else(|| ApiError::not_found(&deleting, &name))?;
            delete(transaction, &deleting, &object, &options, now)
        })
        .await?;
    let body = match deleted {
        Deleted::Gone(object) => success(&resource, &object),
        Deleted::Waiting(object) => view.object(&resource, &object.value, now),
    };
    Ok(told(answer(StatusCode::OK, &body, &Warnings::default()), mode, None))
}

pub(super) async fn collection(
    call: &Call<'_>,
    resource: Arc<Resource>,
    namespace: String,
    body: Bytes,
) -> Result<Response, ApiError> {
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let options = Options::read(call, &body)?;
    let (mode, selector) = (options.mode, call.query.selector(&resource)?);
    let now = call.server.inner.clock.now();
    let deleting = Arc::clone(&resource);
    let store = &call.server.inner.store;
    let objects = store
        .write(mode, move |transaction| {
            let mut objects = transaction.list(&range(&deleting, &namespace));
            objects.retain(|object| selector.matches(&deleting.served(&object.value)));
            for object in &objects {
                delete(transaction, &deleting, object, &options, now)?;
            }
            Ok::<_, ApiError>(objects)
        })
        .await?;
    let values: Vec<&Value> = objects.iter().map(|object| &object.value).collect();
    let metadata = json!({ "resourceVersion": store.version().to_string() });
    let list = view.list(&resource, &values, metadata, now);
    Ok(told(answer(StatusCode::OK, &list, &Warnings::default()), mode, None))
}

/// `DeleteOptions`, from the query and the body. When objects disappear, and their dependents with them, is up to the
/// server: `gracePeriodSeconds` means nothing here, and `Foreground` the same as `Background`.
#[derive(Debug)]
struct Options {
    mode: Mode,
    uid: Option<String>,
    version: Option<String>,
    orphan: bool,
}

impl Options {
    fn read(call: &Call<'_>, body: &[u8]) -> Result<Self, ApiError> {
        let mut options = Self {
            mode: call.query.mode()?,
            uid: None,
            version: None,
            orphan: is_orphan_query(&call.query)?,
        };
        if body.is_empty() {
            return Ok(options);
        }
        json_body(&call.parts.headers)?;
        let body = decode::json(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding DeleteOptions: {error}")))?
            .value;
        match body.get("kind").and_then(Value::as_str) {
            None | Some("" | "DeleteOptions") => {}
            Some(kind) => {
                return Err(ApiError::bad_request(format!(
                    "decoded object cannot be converted to DeleteOptions: {kind}"
                )));
            }
        }
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
        options.uid = text("/preconditions/uid");
        options.version = text("/preconditions/resourceVersion");
        if let Some(policy) = text("/propagationPolicy") {
            options.orphan = is_orphan(&policy)?;
        }
        for value in body.get("dryRun").and_then(Value::as_array).into_iter().flatten() {
            options.mode = dry_run(value.as_str().unwrap_or_default())?;
        }
        Ok(options)
    }

    fn check(&self, resource: &Resource, object: &Object) -> Result<(), ApiError> {
        let name = object.key.name();
        let uid = metadata::text(&object.value, "uid");
        if let Some(wanted) = self.uid.as_deref().filter(|&wanted| wanted != uid) {
            let why = format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have \
                 been deleted and then recreated"
            );
            return Err(ApiError::conflict(resource, name, &why));
        }
        let version = metadata::text(&object.value, "resourceVersion");
        if let Some(wanted) = self.version.as_deref().filter(|&wanted| wanted != version) {
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
                 ({version}). The object might have been modified"
            );
            return Err(ApiError::conflict(resource, name, &why));
        }
        Ok(())
    }
}

fn is_orphan_query(query: &Query) -> Result<bool, ApiError> {
    query.get("propagationPolicy").map_or(Ok(false), is_orphan)
}

fn is_orphan(policy: &str) -> Result<bool, ApiError> {
    match policy {
        "Orphan" => Ok(true),
        "Background" | "Foreground" => Ok(false),
        policy => {
            let supported = ["Foreground", "Background", "Orphan"];
            Err(ApiError::invalid_options(
                "DeleteOptions",
                cause::not_supported("propagationPolicy", policy, &supported),
            ))
        }
    }
}

enum Deleted {
    Gone(Arc<Object>),
    /// Somebody has to let it go first.
    Waiting(Arc<Object>),
}

fn delete(
    transaction: &mut Transaction<'_>,
    resource: &Resource,
    object: &Arc<Object>,
    options: &Options,
    now: Timestamp,
) -> Result<Deleted, ApiError> {
    options.check(resource, object)?;
    if resource.builtin == Some(Builtin::Namespace) && object.key.name() == DEFAULT {
        return Err(ApiError::forbidden(resource, DEFAULT, "this namespace may not be deleted"));
    }
    if options.orphan {
        orphan_dependents(transaction, metadata::text(&object.value, "uid"));
    }
    Ok(begin(transaction, object, resource.builtin == Some(Builtin::Namespace), now))
}

/// Deletes an object, or marks it when something has to happen before.
pub(super) fn delete_or_mark(transaction: &mut Transaction<'_>, object: &Arc<Object>, now: Timestamp) {
    begin(transaction, object, false, now);
}

fn begin(
    transaction: &mut Transaction<'_>,
    object: &Arc<Object>,
    is_namespace: bool,
    now: Timestamp,
) -> Deleted {
    if metadata::is_terminating(&object.value) {
        return Deleted::Waiting(Arc::clone(object));
    }
    let mut value = object.value.clone();
    if !is_namespace && metadata::finalizers(&value).next().is_none() {
        return Deleted::Gone(transaction.remove(object.key.clone(), value));
    }
    metadata::set(&mut value, "deletionTimestamp", json!(rfc3339(now)));
    if is_namespace {
        value["status"]["phase"] = json!("Terminating");
    } else {
        metadata::set(&mut value, "deletionGracePeriodSeconds", json!(0));
        let generation = metadata::of(&value).and_then(|metadata| metadata.get("generation")?.as_i64());
        if let Some(generation) = generation {
            metadata::set(&mut value, "generation", json!(generation + 1));
        }
    }
    Deleted::Waiting(transaction.put(object.key.clone(), value))
}

/// Takes the owner out of the references of all that it owns, so that they stay.
fn orphan_dependents(transaction: &mut Transaction<'_>, owner: &str) {
    for dependent in transaction.list(&Range::all()) {
        let references = metadata::of(&dependent.value).and_then(|metadata| metadata.get("ownerReferences"));
        let Some(references) = references.and_then(Value::as_array) else { continue };
        let others: Vec<Value> = references
            .iter()
            .filter(|reference| reference.get("uid").and_then(Value::as_str) != Some(owner))
            .cloned()
            .collect();
        if others.len() < references.len() {
            let mut value = dependent.value.clone();
            metadata::set(&mut value, "ownerReferences", others.into());
            transaction.put(dependent.key.clone(), value);
        }
    }
}

fn success(resource: &Resource, object: &Object) -> Value {
    let mut details = json!({
        "name": object.key.name(),
        "kind": resource.plural,
        "uid": metadata::text(&object.value, "uid"),
    });
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}
