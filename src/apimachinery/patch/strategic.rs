//! Strategic merge patch for the built-in kinds served: Secret, Namespace and Event.
//!
//! Of all their lists only `metadata.finalizers` and `metadata.ownerReferences` merge, so the merge keys are written
//! here rather than read from an `OpenAPI` document; every other list is replaced, as for a merge patch.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::apimachinery::depth;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch: maps merge, null deletes, `$patch`, `$retainKeys`,
/// `$deleteFromPrimitiveList/<list>` and `$setElementOrder/<list>` are honoured; finalizers merge as a set,
/// `ownerReferences` by `uid`, other lists are replaced.
///
/// # Errors
/// See [`PatchError`]; the target is unchanged then.
pub fn strategic_merge_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if depth::is_excessive(patch) {
        return Err(PatchError::TooLarge("the patch is nested too deeply".to_owned()));
    }
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch is an object".to_owned()));
    };
    let mut patched = target.clone();
    merge_map(&mut patched, patch, Place::Root)?;
    *target = patched;
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Metadata,
    Elsewhere,
}

enum ListStrategy {
    Replace,
    Set,
    ByKey(&'static str),
}

fn strategy(place: Place, key: &str) -> ListStrategy {
    match (place, key) {
        (Place::Metadata, "finalizers") => ListStrategy::Set,
        (Place::Metadata, "ownerReferences") => ListStrategy::ByKey("uid"),
        _ => ListStrategy::Replace,
    }
}

fn merge_map(target: &mut Value, patch: &Map<String, Value>, place: Place) -> Result<(), PatchError> {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return Ok(()) };
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *fields = patch
                .iter()
                .filter(|(key, _)| *key != DIRECTIVE)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            fields.clear();
            return Ok(());
        }
        Some(other) => return Err(PatchError::Malformed(format!("Unknown patch type found: {other}"))),
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        retain_keys(fields, patch, retained)?;
    }
    for (list, removed) in prefixed(patch, DELETE_FROM) {
        let removed: HashSet<_> = array(removed, DELETE_FROM)?.iter().map(Value::to_string).collect();
        if let Some(Value::Array(items)) = fields.get_mut(list) {
            items.retain(|item| !removed.contains(&item.to_string()));
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        match value {
            Value::Null => {
                fields.remove(key);
            }
            Value::Object(inner) => {
                let place = if place == Place::Root && key == "metadata" {
                    Place::Metadata
                } else {
                    Place::Elsewhere
                };
                merge_map(fields.entry(key.as_str()).or_insert(Value::Null), inner, place)?;
            }
            Value::Array(items) => {
                merge_list(fields.entry(key.as_str()).or_insert(Value::Null), items, &strategy(place, key))?;
            }
            scalar => {
                fields.insert(key.clone(), scalar.clone());
            }
        }
    }
    for (list, order) in prefixed(patch, ELEMENT_ORDER) {
        let order = array(order, ELEMENT_ORDER)?;
        let strategy = strategy(place, list);
        if let Some(Value::Array(items)) = fields.get_mut(list) {
            reorder(items, order, &strategy);
        }
    }
    Ok(())
}

fn prefixed<'a>(
    patch: &'a Map<String, Value>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    patch.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}

fn array<'a>(value: &'a Value, directive: &str) -> Result<&'a Vec<Value>, PatchError> {
    value.as_array().ok_or_else(|| PatchError::Malformed(format!("{directive} needs a list")))
}

fn retain_keys(
    fields: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    retained: &Value,
) -> Result<(), PatchError> {
    let retained = array(retained, RETAIN_KEYS)?;
    let is_retained = |key: &str| retained.iter().any(|one| one.as_str() == Some(key));
    if let Some((key, _)) =
        patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !is_retained(key))
    {
        return Err(PatchError::Malformed(format!("{RETAIN_KEYS} does not list the patched field {key}")));
    }
    fields.retain(|key, _| is_retained(key));
    Ok(())
}

fn merge_list(target: &mut Value, patch: &[Value], strategy: &ListStrategy) -> Result<(), PatchError> {
    let mut items = match target.take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    match strategy {
        ListStrategy::Replace => items = patch.to_vec(),
        ListStrategy::Set => {
            let mut present: HashSet<_> = items.iter().map(Value::to_string).collect();
            items.extend(patch.iter().filter(|item| present.insert(item.to_string())).cloned());
        }
        ListStrategy::ByKey(key) => merge_by_key(&mut items, patch, key)?,
    }
    *target = Value::Array(items);
    Ok(())
}

fn merge_by_key(items: &mut Vec<Value>, patch: &[Value], key: &str) -> Result<(), PatchError> {
    let replaces = |item: &&Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("replace");
    if patch.iter().any(|item| replaces(&item)) {
        *items = patch.iter().filter(|item| !replaces(item)).cloned().collect();
        return Ok(());
    }
    // Looked up by serialised key: a search for each item would take minutes on long lists.
    let mut positions: HashMap<String, usize> = HashMap::new();
    for (position, item) in items.iter().enumerate() {
        positions.entry(identity(item, key)).or_insert(position);
    }
    let mut deleted = HashSet::new();
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(PatchError::Malformed("a list merged by key holds objects only".to_owned()));
        };
        if !fields.contains_key(key) {
            return Err(PatchError::Malformed(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        }
        let id = identity(item, key);
        if fields.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
            deleted.insert(id);
            continue;
        }
        let position = *positions.entry(id).or_insert(items.len());
        if position == items.len() {
            items.push(Value::Null);
        }
        if let Some(slot) = items.get_mut(position) {
            merge_map(slot, fields, Place::Elsewhere)?;
        }
    }
    items.retain(|item| !deleted.contains(&identity(item, key)));
    Ok(())
}

fn identity(item: &Value, key: &str) -> String {
    item.get(key).map(Value::to_string).unwrap_or_default()
}

/// Items that the order does not mention go last, as they stood.
fn reorder(items: &mut [Value], order: &[Value], strategy: &ListStrategy) {
    let id = |item: &Value| match strategy {
        ListStrategy::ByKey(key) => identity(item, key),
        ListStrategy::Set | ListStrategy::Replace => item.to_string(),
    };
    let ranks: HashMap<_, _> = order.iter().enumerate().map(|(rank, item)| (id(item), rank)).collect();
    items.sort_by_cached_key(|item| ranks.get(&id(item)).copied().unwrap_or(usize::MAX));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut target: Value, patch: &Value) -> Value {
        strategic_merge_patch(&mut target, patch).unwrap();
        target
    }

    #[test]
    fn maps_merge_null_deletes_and_plain_lists_are_replaced() {
        let target = json!({"data": {"a": "1", "b": "2"}, "l": [1]});
        let patch = json!({"data": {"a": null, "c": "3"}, "l": [2]});
        assert_eq!(patched(target, &patch), json!({"data": {"b": "2", "c": "3"}, "l": [2]}));
    }

    #[test]
    fn finalizers_merge_as_a_set() {
        let target = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {
            "$setElementOrder/finalizers": ["c", "b"], "$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"],
        }});
        assert_eq!(patched(target, &patch), json!({"metadata": {"finalizers": ["c", "b"]}}));
    }

    #[test]
    fn owner_references_merge_by_uid() {
        let target =
            json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}]}});
        let patch = json!({"metadata": {"ownerReferences": [
            {"uid": "1", "$patch": "delete"}, {"uid": "2", "controller": true}, {"uid": "3", "name": "c"},
        ]}});
        let expected = json!([{"uid": "2", "name": "b", "controller": true}, {"uid": "3", "name": "c"}]);
        assert_eq!(patched(target, &patch)["metadata"]["ownerReferences"], expected);
    }

    #[test]
    fn directives_replace_delete_and_retain() {
        let target = json!({"data": {"a": "1", "b": "2"}});
        assert_eq!(
            patched(target.clone(), &json!({"data": {"$patch": "replace", "c": "3"}}))["data"],
            json!({"c": "3"})
        );
        assert_eq!(patched(target.clone(), &json!({"data": {"$patch": "delete"}}))["data"], json!({}));
        let retain = json!({"data": {"$retainKeys": ["b", "c"], "c": "3"}});
        assert_eq!(patched(target, &retain)["data"], json!({"b": "2", "c": "3"}));
    }

    #[test]
    fn a_wrong_patch_is_refused_and_changes_nothing() {
        let original = json!({"data": {"a": "1"}});
        for patch in [
            json!([]),
            json!({"data": {"b": "2"}, "metadata": {"$patch": "explode"}}),
            json!({"data": {"b": "2", "$retainKeys": ["c"]}}),
            json!({"data": {"b": "2"}, "metadata": {"ownerReferences": [{"name": "x"}]}}),
        ] {
            let mut target = original.clone();
            assert!(
                matches!(strategic_merge_patch(&mut target, &patch), Err(PatchError::Malformed(_))),
                "{patch}"
            );
            assert_eq!(target, original);
        }
    }
}
