//! Walks an object along its schema and collects what does not fit.
//!
//! The order of the checks on one value is kube-openapi's, so that the first sentence a user reads is the same. On an
//! update a value equal to its old one is not looked at: what is stored stays acceptable when a schema has grown
//! stricter.

use std::collections::HashMap;

use serde_json::Value;

use super::node::{Additional, ListKind, Node};
use super::{Cause, checks, child_path};

/// Collects the violations of `node` by `value`.
pub(super) fn validate(node: &Node, value: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    if old == Some(value) {
        return;
    }
    checks::check_type(node, value, path, causes);
    if value.is_null() {
        checks::check_value(&node.checks, value, path, causes);
        return;
    }
    check_alternatives(node, value, path, causes);
    checks::check_value(&node.checks, value, path, causes);
    match value {
        Value::Array(items) => {
            let countable = checks::check_items(&node.checks, items.len(), path, causes);
            let Some(child) = node.items.as_ref().filter(|_| countable) else { return };
            let old = OldItems::of(node, old);
            for (index, item) in items.iter().enumerate() {
                validate(child, item, old.find(item), &format!("{path}[{index}]"), causes);
            }
        }
        Value::Object(fields) => {
            if !checks::check_properties(&node.checks, fields.len(), path, causes) {
                return;
            }
            for (key, field) in fields {
                let (child, _) = node.field(key);
                let Some(child) = child else { continue };
                let old = old.filter(|_| !node.atomic_map).and_then(|old| old.get(key));
                validate(child, field, old, &child_path(path, key), causes);
            }
            for key in node.checks.required.iter().filter(|key| !fields.contains_key(*key)) {
                causes.push(Cause::required(&child_path(path, key), ""));
            }
        }
        _ => {}
    }
}

/// The items of an old list by their keys: an index, since a search for each item would take minutes on long lists.
struct OldItems<'a> {
    keys: &'a [String],
    items: HashMap<String, &'a Value>,
}

impl<'a> OldItems<'a> {
    /// Empty unless the list is of type `map`: only that says which item is which.
    fn of(node: &'a Node, old: Option<&'a Value>) -> Self {
        let ListKind::Map(keys) = &node.list else { return Self { keys: &[], items: HashMap::new() } };
        let items = old.and_then(Value::as_array).into_iter().flatten();
        Self { keys, items: items.map(|item| (identity(keys, item), item)).collect() }
    }

    fn find(&self, item: &Value) -> Option<&'a Value> {
        if self.items.is_empty() { None } else { self.items.get(&identity(self.keys, item)).copied() }
    }
}

fn identity(keys: &[String], item: &Value) -> String {
    keys.iter().map(|key| item.get(key).cloned()).collect::<Value>().to_string()
}

fn check_alternatives(node: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let failures = |alternative: &Node| {
        let mut causes = Vec::new();
        validate(alternative, value, None, path, &mut causes);
        causes
    };
    // The API server names no field in these.
    let general = |sentence: &str| Cause::invalid("", &"".into(), &format!("\"{path}\" {sentence}"));
    if !node.any_of.is_empty() {
        let all: Vec<_> = node.any_of.iter().map(failures).collect();
        if !all.iter().any(Vec::is_empty) {
            causes.push(general("must validate at least one schema (anyOf)"));
            causes.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
        }
    }
    if !node.one_of.is_empty() {
        let all: Vec<_> = node.one_of.iter().map(failures).collect();
        match all.iter().filter(|failures| failures.is_empty()).count() {
            1 => {}
            0 => {
                causes.push(general("must validate one and only one schema (oneOf). Found none valid"));
                causes.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
            many => {
                let sentence =
                    format!("must validate one and only one schema (oneOf). Found {many} valid alternatives");
                causes.push(general(&sentence));
            }
        }
    }
    if !node.all_of.is_empty() {
        let all: Vec<_> = node.all_of.iter().map(failures).collect();
        let failed = all.iter().filter(|failures| !failures.is_empty()).count();
        causes.extend(all.into_iter().flatten());
        if failed > 0 {
            let suffix = if failed == node.all_of.len() { ". None validated" } else { "" };
            causes.push(general(&format!("must validate all the schemas (allOf){suffix}")));
        }
    }
    if node.not.as_ref().is_some_and(|not| failures(not).is_empty()) {
        causes.push(general("must not validate the schema (not)"));
    }
}

/// Calls `visit` with every child of `value` that the schema describes, its old value and its path.
pub(super) fn children<'a>(
    node: &'a Node,
    value: &'a Value,
    old: Option<&'a Value>,
    path: &str,
    mut visit: impl FnMut(&'a Node, &'a Value, Option<&'a Value>, String),
) {
    match value {
        Value::Array(items) => {
            let Some(child) = &node.items else { return };
            let old = OldItems::of(node, old);
            for (index, item) in items.iter().enumerate() {
                visit(child, item, old.find(item), format!("{path}[{index}]"));
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                let old = old.filter(|_| !node.atomic_map).and_then(|old| old.get(key));
                match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => visit(child, field, old, child_path(path, key)),
                    (None, Additional::Node(child)) => visit(child, field, old, format!("{path}[{key}]")),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}
