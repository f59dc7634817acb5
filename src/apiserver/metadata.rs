//! `metadata`: the part of an object that is the same for all kinds.
//!
//! Schemas leave it alone, so its types and rules are checked here, as kube-apiserver does by decoding `ObjectMeta`.

use crate::apimachinery::Cause;
use crate::apimachinery::name::{is_dns1123_label, is_dns1123_subdomain};
use serde_json::{Map, Value, json};

use super::cause;
use super::names;

/// Of all annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// What a field of `ObjectMeta` holds.
enum Type {
    Text,
    Number,
    Texts,
    TextMap,
    Objects,
}

fn field_type(field: &str) -> Option<Type> {
    Some(match field {
        "name" | "generateName" | "namespace" | "selfLink" | "uid" | "resourceVersion"
        | "creationTimestamp" | "deletionTimestamp" => Type::Text,
        "generation" | "deletionGracePeriodSeconds" => Type::Number,
        "finalizers" => Type::Texts,
        "labels" | "annotations" => Type::TextMap,
        "ownerReferences" | "managedFields" => Type::Objects,
        _ => return None,
    })
}

/// The object's metadata, for reading.
pub(super) fn of(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// A text in the metadata; the empty one when there is none.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    of(object).and_then(|metadata| metadata.get(field)?.as_str()).unwrap_or_default()
}

/// The object's metadata, for writing. It is made when there is none.
pub(super) fn of_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let object = object.as_object_mut()?;
    object.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
}

pub(super) fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(metadata) = of_mut(object) {
        metadata.insert(field.to_owned(), value);
    }
}

/// Whether somebody has asked for its deletion.
pub(super) fn is_terminating(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

pub(super) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let finalizers = of(object).and_then(|metadata| metadata.get("finalizers")?.as_array());
    finalizers.into_iter().flatten().filter_map(Value::as_str)
}

/// Brings the metadata that a client sent into the form that is stored: without nulls, empty maps and fields that do
/// not exist. Returns the paths of the latter; the error is the sentence about a field of the wrong type.
pub(super) fn normalize(object: &mut Value) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    if let Some(object) = object.as_object_mut()
        && object.get("metadata").is_some_and(Value::is_null)
    {
        object.remove("metadata");
    }
    let metadata = of_mut(object).ok_or("json: cannot unmarshal metadata: it is not an object")?;
    let mut wrong = None;
    metadata.retain(|field, value| {
        let Some(wanted) = field_type(field) else {
            unknown.push(format!("metadata.{field}"));
            return false;
        };
        if value.is_null() {
            return false;
        }
        if let Err(name) = check(&wanted, value) {
            wrong.get_or_insert_with(|| {
                format!(
                    "json: cannot unmarshal into Go struct field ObjectMeta.metadata.{field} of type {name}"
                )
            });
        }
        // An empty list of managedFields means something.
        field == "managedFields" || !is_empty(value)
    });
    match wrong {
        Some(wrong) => Err(wrong),
        None => Ok(unknown),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The error is the name of the type in Go, where the sentence comes from.
fn check(wanted: &Type, value: &mut Value) -> Result<(), &'static str> {
    match wanted {
        Type::Text if value.is_string() => Ok(()),
        Type::Text => Err("string"),
        Type::Number if value.is_i64() => Ok(()),
        Type::Number => Err("int64"),
        Type::Texts => match value.as_array() {
            Some(items) if items.iter().all(Value::is_string) => Ok(()),
            _ => Err("[]string"),
        },
        Type::TextMap => {
            let map = value.as_object_mut().ok_or("map[string]string")?;
            // As Go does it: nothing is the empty text.
            map.values_mut().filter(|value| value.is_null()).for_each(|value| *value = json!(""));
            if map.values().all(Value::is_string) { Ok(()) } else { Err("map[string]string") }
        }
        Type::Objects => match value.as_array() {
            Some(items) if items.iter().all(Value::is_object) => Ok(()),
            _ => Err("[]object"),
        },
    }
}

/// Every rule that the metadata of an object breaks by itself.
pub(super) fn validate(object: &Value, name_is_label: bool) -> Vec<Cause> {
    let Some(metadata) = of(object) else { return Vec::new() };
    let mut causes = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        causes.push(cause::required("metadata.name", "name or generateName is required"));
    } else {
        let complaints = if name_is_label { is_dns1123_label(name) } else { is_dns1123_subdomain(name) };
        causes.extend(complaints.iter().map(|why| cause::invalid("metadata.name", &json!(name), why)));
    }
    for (key, value) in entries(metadata, "labels") {
        let key_complaints = names::qualified_name(key);
        causes.extend(key_complaints.iter().map(|why| cause::invalid("metadata.labels", &json!(key), why)));
        let complaints = value.as_str().map(names::label_value).unwrap_or_default();
        causes.extend(complaints.iter().map(|why| cause::invalid("metadata.labels", value, why)));
    }
    let mut annotations = 0;
    for (key, value) in entries(metadata, "annotations") {
        // Their keys may be written in capitals.
        let complaints = names::qualified_name(&key.to_lowercase());
        causes.extend(complaints.iter().map(|why| cause::invalid("metadata.annotations", &json!(key), why)));
        annotations += key.len() + value.as_str().map_or(0, str::len);
    }
    if annotations > MAX_ANNOTATIONS {
        causes.push(cause::too_long("metadata.annotations", MAX_ANNOTATIONS));
    }
    for finalizer in finalizers(object) {
        let complaints = names::qualified_name(finalizer);
        causes.extend(
            complaints.iter().map(|why| cause::invalid("metadata.finalizers", &json!(finalizer), why)),
        );
    }
    causes.extend(owner_references(metadata));
    causes
}

/// The rule about what a name is to begin with: that anything can follow.
pub(super) fn validate_prefix(object: &Value, name_is_label: bool) -> Vec<Cause> {
    let prefix = text(object, "generateName");
    if prefix.is_empty() {
        return Vec::new();
    }
    let example = format!("{prefix}a");
    let complaints = if name_is_label { is_dns1123_label(&example) } else { is_dns1123_subdomain(&example) };
    complaints.iter().map(|why| cause::invalid("metadata.generateName", &json!(prefix), why)).collect()
}

/// The rules about a change.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    if !is_terminating(old) {
        return Vec::new();
    }
    let added: Vec<&str> =
        finalizers(new).filter(|finalizer| finalizers(old).all(|known| known != *finalizer)).collect();
    if added.is_empty() {
        return Vec::new();
    }
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.iter().map(|finalizer| format!("{finalizer:?}")).collect::<Vec<_>>().join(", ")
    );
    vec![cause::forbidden("metadata.finalizers", &why)]
}

fn entries<'a>(
    metadata: &'a Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    metadata.get(field).and_then(Value::as_object).into_iter().flatten()
}

fn owner_references(metadata: &Map<String, Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut controllers: Vec<&str> = Vec::new();
    let references = metadata.get("ownerReferences").and_then(Value::as_array).into_iter().flatten();
    for reference in references {
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if reference.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                causes.push(cause::invalid(&format!("metadata.ownerReferences.{field}"), &json!(""), why));
            }
        }
        if reference.get("controller") == Some(&Value::Bool(true)) {
            controllers.push(reference.get("name").and_then(Value::as_str).unwrap_or_default());
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        causes.push(cause::invalid("metadata.ownerReferences", &json!(controllers), &why));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_not_kept() {
        let mut object = json!({
            "metadata": { "name": "a", "creationTimestamp": null, "labels": {}, "finalizers": [], "colour": "red" },
        });
        assert_eq!(normalize(&mut object).unwrap(), ["metadata.colour"]);
        assert_eq!(object, json!({ "metadata": { "name": "a" } }));
    }

    #[test]
    fn a_field_of_the_wrong_type_is_an_error() {
        for metadata in [
            json!({ "name": 7 }),
            json!({ "labels": { "a": 1 } }),
            json!({ "labels": [] }),
            json!({ "finalizers": "a" }),
            json!({ "ownerReferences": ["a"] }),
            json!("a"),
        ] {
            assert!(normalize(&mut json!({ "metadata": metadata })).is_err(), "{metadata}");
        }
    }

    #[test]
    fn an_object_has_one_controller_at_most() {
        let owner = |name: &str| json!({ "apiVersion": "v1", "kind": "Secret", "name": name, "uid": name, "controller": true });
        let object = |owners: Value| json!({ "metadata": { "name": "a", "ownerReferences": owners } });
        assert!(validate(&object(json!([owner("x")])), false).is_empty());
        assert_eq!(validate(&object(json!([owner("x"), owner("y")])), false).len(), 1);
    }

    #[test]
    fn no_finalizer_comes_to_an_object_that_is_being_deleted() {
        let old =
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"] } });
        assert!(validate_update(&json!({ "metadata": { "finalizers": [] } }), &old).is_empty());
        assert_eq!(validate_update(&json!({ "metadata": { "finalizers": ["a/b", "c/d"] } }), &old).len(), 1);
    }
}
