//! From client-side to server-side apply.
//!
//! `kubectl apply` keeps the configuration it applied last in an annotation. When the same manager turns to
//! server-side apply, a field that still has the value of that configuration is its own, whoever `managedFields`
//! names, and the annotation follows, so that going back stays possible.

use serde_json::Value;

use super::compare::Comparison;
use super::field_set::FieldSet;
use super::owned;
use crate::apimachinery::schema::Node;

/// Only kubectl's own manager has applied client-side.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The fields that have the values of the last client-side apply.
pub(super) fn undisputed(root: &Node, live: &Value) -> FieldSet {
    let Some(last) = annotation(live).and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return FieldSet::default();
    };
    let difference = Comparison::of(root, &last, live);
    owned::fields(root, &last).difference(&difference.changed()).difference(&difference.removed)
}

/// Writes the configuration into the annotation, if there is one.
pub(super) fn refresh(object: &mut Value, configuration: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut configuration = configuration.clone();
    if let Some(annotations) =
        configuration.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(ANNOTATION.to_owned(), format!("{configuration}\n").into());
    }
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}
