//! What happens to an object on its way into the store, whichever verb has brought it.
//!
//! The server's own part of the metadata, defaults, status and the rest kept apart, generations, field owners, and
//! all validation. Runs inside the transaction: it sees the object as it is and nobody changes that meanwhile.

use std::sync::Arc;

use crate::apimachinery::{Cause, Manager, track_update};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::admission::Asked;
use super::builtin::{Builtin, NAMESPACES};
use super::clock::rfc3339;
use super::resource::Resource;
use super::status::ApiError;
use super::store::{Key, Object, Transaction};
use super::{cause, generate, incoming, metadata};

/// Of an object's JSON. What is larger belongs somewhere else.
pub(super) const MAX_OBJECT: usize = 3 << 20;

/// Who writes what, and when.
#[derive(Debug, Clone)]
pub(super) struct Strategy {
    pub(super) resource: Arc<Resource>,
    /// Through the status subresource: nothing but the status changes.
    pub(super) status: bool,
    /// The field manager.
    pub(super) manager: String,
    pub(super) now: Timestamp,
    /// Whether who writes it may have it be so.
    pub(super) admission: Option<Asked>,
}

/// Who keeps the books on field owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// What changed belongs to the manager.
    Changed,
    /// Server-side apply has done it already.
    Applied,
}

/// An object that was written, or would have been.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) object: Arc<Object>,
    /// The version that it had before.
    pub(super) previous: Option<u64>,
}

impl Strategy {
    pub(super) fn with_manager<T>(&self, run: impl FnOnce(&Manager<'_>) -> T) -> T {
        run(&Manager {
            name: &self.manager,
            subresource: self.status.then_some("status"),
            api_version: &self.resource.api_version(),
            now: &rfc3339(self.now),
        })
    }

    /// Creates an object; its type and place have been checked.
    pub(super) fn create(
        &self,
        transaction: &mut Transaction<'_>,
        mut object: Value,
        ownership: Ownership,
    ) -> Result<Written, ApiError> {
        let resource = &self.resource;
        if !metadata::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let namespace = metadata::text(&object, "namespace").to_owned();
        self.check_namespace(transaction, &namespace, metadata::text(&object, "name"))?;
        let (given, prefix) = (metadata::text(&object, "name"), metadata::text(&object, "generateName"));
        let name = if given.is_empty() && !prefix.is_empty() {
            let is_taken =
                |name: &str| transaction.get(&Key::new(&resource.storage, &namespace, name)).is_some();
            generate::name(prefix, is_taken)
        } else {
            given.to_owned()
        };
        if let Some(metadata) = metadata::of_mut(&mut object) {
            for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
                metadata.remove(field);
            }
            if !name.is_empty() {
                metadata.insert("name".into(), json!(name));
            }
            metadata.insert("uid".into(), json!(Uuid::new_v4().to_string()));
            metadata.insert("creationTimestamp".into(), json!(rfc3339(self.now)));
            if resource.builtin.is_none() {
                metadata.insert("generation".into(), json!(1));
            }
        }
        resource.schema.apply_defaults(&mut object);
        if resource.has_status
            && let Some(object) = object.as_object_mut()
        {
            object.remove("status");
        }
        self.prepare(&mut object)?;
        if ownership == Ownership::Changed {
            self.with_manager(|manager| track_update(&resource.schema, None, &mut object, manager));
        }
        self.complete(&mut object, None);
        let causes = metadata::validate_prefix(&object, resource.builtin == Some(Builtin::Namespace));
        self.validate(&object, None, causes)?;
        self.admit(&object, None)?;
        let key = Key::new(&resource.storage, &namespace, &name);
        if transaction.get(&key).is_some() {
            return Err(ApiError::already_exists(resource, &name));
        }
        check_size(&object)?;
        Ok(Written { object: transaction.put(key, resource.stored(object)), previous: None })
    }

    /// Changes `old` into `new`; its type and place have been checked.
    pub(super) fn update(
        &self,
        transaction: &mut Transaction<'_>,
        old: &Arc<Object>,
        mut new: Value,
        ownership: Ownership,
    ) -> Result<Written, ApiError> {
        let resource = &self.resource;
        let before = resource.served(&old.value);
        let name = old.key.name();
        let version = metadata::text(&new, "resourceVersion");
        if !version.is_empty() && version != metadata::text(&before, "resourceVersion") {
            return Err(ApiError::modified(resource, name));
        }
        let causes = carry_over(&mut new, &before);
        resource.schema.apply_defaults(&mut new);
        self.keep_apart(&mut new, &before);
        self.prepare(&mut new)?;
        if resource.builtin.is_none() && content(&new) != content(&before) {
            let generation = metadata::of(&before).and_then(|metadata| metadata.get("generation")?.as_i64());
            metadata::set(&mut new, "generation", json!(generation.unwrap_or_default() + 1));
        }
        if ownership == Ownership::Changed {
            self.with_manager(|manager| track_update(&resource.schema, Some(&before), &mut new, manager));
        }
        self.complete(&mut new, Some(&before));
        self.validate(&new, Some(&before), causes)?;
        self.admit(&new, Some(&before))?;
        check_size(&new)?;
        let previous = Some(old.version);
        if new == *before {
            return Ok(Written { object: Arc::clone(old), previous });
        }
        let gone = metadata::is_terminating(&new) && metadata::finalizers(&new).next().is_none();
        let stored = resource.stored(new);
        // A namespace goes when it is empty, which upkeep sees to.
        if gone && resource.builtin != Some(Builtin::Namespace) {
            return Ok(Written { object: transaction.remove(old.key.clone(), stored), previous });
        }
        Ok(Written { object: transaction.put(old.key.clone(), stored), previous })
    }

    /// There is no place for an object in a namespace that is not there or is going.
    fn check_namespace(
        &self,
        transaction: &Transaction<'_>,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        if !self.resource.namespaced {
            return Ok(());
        }
        match transaction.get(&Key::new(NAMESPACES, "", namespace)) {
            None => Err(ApiError::no_such_namespace(namespace)),
            Some(found) if metadata::is_terminating(&found.value) => {
                Err(ApiError::terminating(&self.resource, name, namespace))
            }
            Some(_) => Ok(()),
        }
    }

    /// The status is changed by its subresource alone, and that changes nothing else.
    fn keep_apart(&self, new: &mut Value, old: &Value) {
        if !self.resource.has_status {
            return;
        }
        if self.status {
            let managed_fields =
                metadata::of(new).and_then(|metadata| metadata.get("managedFields").cloned());
            let status = new.get_mut("status").map(Value::take);
            new.clone_from(old);
            if let Some(managed_fields) = managed_fields {
                metadata::set(new, "managedFields", managed_fields);
            }
            set(new, "status", status);
        } else {
            set(new, "status", old.get("status").cloned());
        }
    }

    fn prepare(&self, new: &mut Value) -> Result<(), ApiError> {
        let Some(builtin) = self.resource.builtin else { return Ok(()) };
        builtin.prepare(new).map_err(|why| incoming::unhandled(&self.resource, &why))
    }

    fn complete(&self, new: &mut Value, old: Option<&Value>) {
        if let Some(builtin) = self.resource.builtin {
            builtin.complete(new, old);
        }
    }

    fn admit(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let refused =
            self.admission.as_ref().and_then(|asked| asked.refuses(self.resource.stored_kind(), old, new));
        match refused {
            Some(why) => Err(ApiError::forbidden(&self.resource, metadata::text(new, "name"), &why)),
            None => Ok(()),
        }
    }

    fn validate(&self, new: &Value, old: Option<&Value>, mut causes: Vec<Cause>) -> Result<(), ApiError> {
        let resource = &self.resource;
        causes.extend(metadata::validate(new, resource.builtin == Some(Builtin::Namespace)));
        if let Some(old) = old {
            causes.extend(metadata::validate_update(new, old));
        }
        causes.extend(resource.schema.validate(new, old));
        if let Some(builtin) = resource.builtin {
            causes.extend(builtin.validate(new, old));
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(resource, metadata::text(new, "name"), &causes))
    }
}

/// Gives the new object the metadata that never changes. The result is what the client wanted to change of it.
fn carry_over(new: &mut Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let (Some(new), Some(old)) = (metadata::of_mut(new), metadata::of(old)) else { return causes };
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if let Some(given) = new.get(field)
            && old.get(field) != Some(given)
        {
            causes.push(cause::invalid(&format!("metadata.{field}"), given, "field is immutable"));
        }
    }
    for field in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "selfLink",
    ] {
        match old.get(field) {
            Some(value) => new.insert(field.to_owned(), value.clone()),
            None => new.remove(field),
        };
    }
    causes
}

fn set(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(object) = object.as_object_mut() else { return };
    match value {
        Some(value) => object.insert(field.to_owned(), value),
        None => object.remove(field),
    };
}

/// What a generation counts the changes of: everything but the metadata and the status.
fn content(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status")).collect()
}

/// Patches can make an object larger than any body.
fn check_size(object: &Value) -> Result<(), ApiError> {
    if object.to_string().len() > MAX_OBJECT { Err(ApiError::too_large(MAX_OBJECT)) } else { Ok(()) }
}
