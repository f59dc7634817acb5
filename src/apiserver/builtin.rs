//! The kinds that a cluster has without being asked: those that the tools around custom resources need.
//!
//! A namespace to be in, secrets to refer to, and events to tell what happened. Each has its definition and the rules
//! that no schema can say; all else is the same as for custom resources.

mod events;
mod namespaces;
mod secrets;

use std::borrow::Cow;

use crate::apimachinery::{Cause, Column, Schema};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::resource::{Resource, ResourceError, age_column};

pub(super) use events::is_expired as event_is_expired;
pub(super) use namespaces::{DEFAULT, new as new_namespace};

/// What the namespaces are stored under.
pub(super) const NAMESPACES: &str = "/namespaces";
/// What both kinds of events are stored under.
pub(super) const EVENTS: &str = "/events";

/// A kind with rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Builtin {
    Namespace,
    Secret,
    /// `v1` `Event`, which is what is stored.
    CoreEvent,
    /// `events.k8s.io/v1` `Event`: the same objects, whose fields have other names.
    Event,
}

impl Builtin {
    /// Brings what the client wrote into the form that is stored. The error is the reason why the object cannot be
    /// read.
    pub(super) fn prepare(self, new: &mut Value) -> Result<(), String> {
        match self {
            Self::Namespace => namespaces::prepare(new),
            Self::Secret => return secrets::prepare(new),
            Self::CoreEvent | Self::Event => {}
        }
        Ok(())
    }

    /// Fills in what the server decides, and no field manager owns.
    pub(super) fn complete(self, new: &mut Value, old: Option<&Value>) {
        if self == Self::Namespace {
            namespaces::complete(new, old);
        }
    }

    /// The rules that the schema does not say.
    pub(super) fn validate(self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        match self {
            Self::Namespace => Vec::new(),
            Self::Secret => secrets::validate(new, old),
            Self::CoreEvent | Self::Event => events::validate(new),
        }
    }

    /// A stored object with the texts that its columns show, under `printed`.
    pub(super) fn printed(self, stored: &Value, now: Timestamp) -> Value {
        let mut object = json!({
            "apiVersion": stored.get("apiVersion"),
            "kind": stored.get("kind"),
            "metadata": stored.get("metadata"),
        });
        match self {
            Self::Namespace => object["printed"] = json!({ "status": stored.pointer("/status/phase") }),
            Self::Secret => object["printed"] = secrets::printed(stored),
            Self::CoreEvent | Self::Event => object["printed"] = events::printed(stored, now),
        }
        object
    }
}

impl Resource {
    /// The built-in kinds.
    pub(super) fn built_in() -> Result<[Self; 4], ResourceError> {
        Ok([namespaces::resource()?, secrets::resource()?, events::core_resource()?, events::resource()?])
    }

    /// An object as this resource serves it.
    pub(super) fn served<'a>(&self, stored: &'a Value) -> Cow<'a, Value> {
        match self.builtin {
            Some(Builtin::Event) => Cow::Owned(events::from_core(stored)),
            _ if self.alias_of.is_some() => Cow::Owned(with_kind(stored.clone(), &self.kind)),
            _ => Cow::Borrowed(stored),
        }
    }

    /// The inverse of [`Resource::served`].
    pub(super) fn stored(&self, served: Value) -> Value {
        match self.builtin {
            Some(Builtin::Event) => events::to_core(&served),
            _ if self.alias_of.is_some() => with_kind(served, self.stored_kind()),
            _ => served,
        }
    }
}

fn with_kind(mut object: Value, kind: &str) -> Value {
    object["kind"] = json!(kind);
    object
}

/// A built-in resource of the core group.
fn core(
    builtin: Builtin,
    kind: &str,
    short_names: &[&str],
    fields: &Value,
) -> Result<Resource, ResourceError> {
    let singular = kind.to_lowercase();
    let plural = format!("{singular}s");
    let mut properties = json!({
        "apiVersion": { "type": "string" },
        "kind": { "type": "string" },
        "metadata": { "type": "object" },
    });
    if let (Some(properties), Some(fields)) = (properties.as_object_mut(), fields.as_object()) {
        properties.extend(fields.iter().map(|(name, schema)| (name.clone(), schema.clone())));
    }
    let open_api = json!({ "type": "object", "properties": properties });
    let schema = Schema::compile(&open_api)
        .map_err(|source| ResourceError::Schema { name: plural.clone(), source })?;
    Ok(Resource {
        group: String::new(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        storage: format!("/{plural}"),
        alias_of: None,
        plural,
        singular,
        short_names: short_names.iter().map(|&name| name.to_owned()).collect(),
        categories: Vec::new(),
        namespaced: true,
        has_status: false,
        schema,
        open_api,
        columns: Vec::new(),
        selectable: Vec::new(),
        builtin: Some(builtin),
    })
}

/// A column with a text that [`Builtin::printed`] gives.
fn column(name: &str, field: &str, description: &str, priority: i64) -> Column {
    Column {
        name: name.to_owned(),
        json_path: format!(".printed.{field}"),
        description: description.to_owned(),
        priority,
        kind: "string".to_owned(),
        format: String::new(),
    }
}
