//! Namespaces: what other objects are in.

use serde_json::{Value, json};

use super::{Builtin, Resource, ResourceError, age_column, column, core};
use crate::apiserver::metadata;

/// The one that is always there.
pub(in crate::apiserver) const DEFAULT: &str = "default";

pub(super) fn resource() -> Result<Resource, ResourceError> {
    let fields = json!({
        "spec": {
            "type": "object",
            "description": "What must happen before the namespace goes.",
            "properties": {
                "finalizers": {
                    "type": "array",
                    "items": { "type": "string" },
                    "description": "Who has to empty the namespace before it is deleted.",
                },
            },
        },
        "status": {
            "type": "object",
            "description": "How far the namespace is.",
            "properties": {
                "phase": { "type": "string", "description": "Active, or Terminating while it is being deleted." },
                "conditions": {
                    "type": "array",
                    "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    "description": "Why it is not deleted yet.",
                },
            },
        },
    });
    let resource = core(Builtin::Namespace, "Namespace", &["ns"], &fields)?;
    Ok(Resource {
        namespaced: false,
        has_status: true,
        columns: vec![column("Status", "status", "The phase of the namespace.", 0), age_column()],
        selectable: vec!["status.phase".to_owned()],
        ..resource
    })
}

/// A namespace that the server makes by itself.
pub(in crate::apiserver) fn new(name: &str) -> Value {
    let mut namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    prepare(&mut namespace);
    complete(&mut namespace, None);
    namespace
}

/// The spec is not the client's, and everybody can select a namespace by its name.
pub(super) fn prepare(new: &mut Value) {
    let name = metadata::text(new, "name").to_owned();
    if let Some(metadata) = metadata::of_mut(new) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".into(), json!(name));
        }
    }
    if let Some(object) = new.as_object_mut() {
        object.remove("spec");
    }
}

/// `kubernetes` in the spec stands for the server, which empties the namespace before it goes.
pub(super) fn complete(new: &mut Value, old: Option<&Value>) {
    let Some(object) = new.as_object_mut() else { return };
    object.insert("spec".into(), json!({ "finalizers": ["kubernetes"] }));
    if old.is_none() {
        object.insert("status".into(), json!({ "phase": "Active" }));
    }
}
