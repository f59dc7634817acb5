//! Patches: four kinds, each read-modify-write in one transaction.

use std::sync::Arc;

use crate::apimachinery::{PatchError, apply, json_patch, merge_patch, strategic_merge_patch};
use axum::body::Bytes;
use axum::response::Response;
use serde_json::Value;

use super::decode::{self, Decoded};
use super::incoming::{self, Warnings};
use super::negotiate::{PatchType, form, patch_body};
use super::query::FieldValidation;
use super::render::View;
use super::resource::Resource;
use super::router::{Call, Target};
use super::status::ApiError;
use super::store::{Key, Transaction};
use super::strategy::{Ownership, Strategy, Written};
use super::write::{strategy, written_answer};
use super::{cause, metadata, yaml};

pub(super) async fn patch(call: &Call<'_>, target: Target, body: Bytes) -> Result<Response, ApiError> {
    let kind = patch_body(&call.parts.headers)?;
    let resource = Arc::clone(&target.resource);
    if kind == PatchType::Strategic && resource.builtin.is_none() {
        return Err(ApiError::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        ));
    }
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let mode = call.query.mode()?;
    let force = call.query.flag("force")?;
    check_options(call, kind, force)?;
    let patch = Patch {
        strategy: strategy(call, Arc::clone(&resource), target.status)?,
        target,
        validation: call.query.field_validation()?,
    };
    let store = &call.server.inner.store;
    let result = if kind == PatchType::Apply {
        let Decoded { value, duplicates } = yaml::decode(&body)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
        store.write(mode, move |transaction| patch.apply(transaction, value, &duplicates, force)).await?
    } else {
        let Decoded { value, duplicates } = decode::json(&body)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        store.write(mode, move |transaction| patch.merge(transaction, kind, &value, &duplicates)).await?
    };
    Ok(written_answer(call, &resource, view, mode, &result))
}

/// Who applies has to say so, and nobody else can take fields away by force.
fn check_options(call: &Call<'_>, kind: PatchType, force: bool) -> Result<(), ApiError> {
    let cause = match kind {
        PatchType::Apply if call.query.get("fieldManager").is_none() => {
            cause::required("fieldManager", "is required for apply patch")
        }
        PatchType::Json | PatchType::Merge | PatchType::Strategic if force => {
            cause::forbidden("force", "may not be specified for non-apply patch")
        }
        _ => return Ok(()),
    };
    Err(ApiError::invalid_options("PatchOptions", cause))
}

struct Patch {
    strategy: Strategy,
    target: Target,
    validation: FieldValidation,
}

impl Patch {
    fn key(&self) -> Key {
        Key::new(&self.target.resource.storage, &self.target.namespace, &self.target.name)
    }

    /// All but server-side apply.
    fn merge(
        &self,
        transaction: &mut Transaction<'_>,
        kind: PatchType,
        patch: &Value,
        duplicates: &[String],
    ) -> Result<(Written, Warnings), ApiError> {
        let Target { resource, namespace, name, .. } = &self.target;
        let old = transaction.get(&self.key()).ok_or_else(|| ApiError::not_found(resource, name))?;
        let mut new = resource.served(&old.value).into_owned();
        modify(&mut new, kind, patch)?;
        let unknown = incoming::known_part(resource, &mut new)?;
        let complaints = incoming::complaints(duplicates, &unknown);
        let warnings = incoming::judge(complaints, self.validation, |complaints| {
            strict_error(resource, patch, complaints)
        })?;
        incoming::place(&mut new, namespace, Some(name))?;
        let written = self.strategy.update(transaction, &old, new, Ownership::Changed)?;
        Ok((written, warnings))
    }

    /// Server-side apply, which creates what is not there.
    fn apply(
        &self,
        transaction: &mut Transaction<'_>,
        mut applied: Value,
        duplicates: &[String],
        force: bool,
    ) -> Result<(Written, Warnings), ApiError> {
        let Target { resource, namespace, name, status } = &self.target;
        if applied.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let warnings =
            incoming::judge(incoming::complaints(duplicates, &[]), self.validation, |complaints| {
                ApiError::bad_request(format!("error strict decoding YAML: {}", complaints.join(", ")))
            })?;
        incoming::check_applied_type(resource, &applied)?;
        let unknown = incoming::known_part(resource, &mut applied)?;
        if !unknown.is_empty() {
            let namespace = metadata::text(&applied, "namespace");
            return Err(ApiError::not_declared(resource, namespace, name, &unknown));
        }
        incoming::place(&mut applied, namespace, Some(name))?;
        only_own_part(resource, &mut applied, *status);

        let old = transaction.get(&self.key());
        if old.is_none() && *status {
            return Err(ApiError::not_found(resource, name));
        }
        let live = old.as_ref().map(|old| resource.served(&old.value));
        let version = metadata::text(&applied, "resourceVersion");
        if !version.is_empty()
            && live.as_ref().is_some_and(|live| metadata::text(live, "resourceVersion") != version)
        {
            return Err(ApiError::modified(resource, name));
        }
        let new = self
            .strategy
            .with_manager(|manager| apply(&resource.schema, live.as_deref(), &applied, manager, force))
            .map_err(|conflicts| ApiError::apply_conflict(&conflicts))?;
        let written = match &old {
            Some(old) => self.strategy.update(transaction, old, new, Ownership::Applied)?,
            None => self.strategy.create(transaction, new, Ownership::Applied)?,
        };
        Ok((written, warnings))
    }
}

fn modify(object: &mut Value, kind: PatchType, patch: &Value) -> Result<(), PatchError> {
    match kind {
        PatchType::Json => json_patch(object, patch),
        PatchType::Strategic => strategic_merge_patch(object, patch),
        PatchType::Merge | PatchType::Apply => {
            if !patch.is_object() {
                return Err(PatchError::Malformed("a merge patch must be an object".to_owned()));
            }
            merge_patch(object, patch);
            Ok(())
        }
    }
}

/// Nobody comes to own what this endpoint does not change.
fn only_own_part(resource: &Resource, applied: &mut Value, status: bool) {
    if !resource.has_status {
        return;
    }
    if let Some(applied) = applied.as_object_mut() {
        let is_name = |field: &str| matches!(field, "apiVersion" | "kind" | "metadata");
        applied
            .retain(|field, _| if status { is_name(field) || field == "status" } else { field != "status" });
    }
    if status && let Some(metadata) = metadata::of_mut(applied) {
        metadata
            .retain(|field, _| matches!(field.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
    }
}

/// kube-apiserver shows the patch here, as kubectl's users know it. Not where there are secrets in it.
fn strict_error(resource: &Resource, patch: &Value, complaints: &[String]) -> ApiError {
    let redacted = Value::from("<contents redacted>");
    let shown = if resource.builtin.is_none() { patch } else { &redacted };
    let why = format!("strict decoding error: {}", complaints.join(", "));
    ApiError::invalid_subject(" \"\"", &[cause::invalid("patch", shown, &why)])
}
