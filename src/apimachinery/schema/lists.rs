//! The invariant of lists of type `set` and `map`: no item twice.
//!
//! Field ownership identifies items by value or by keys, so a duplicate could not be told from its original.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::node::{ListKind, Node};
use super::{Cause, validate};

/// Collects the duplicates; on an update only when the old object had none, as kube-apiserver does.
pub(super) fn check(node: &Node, object: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    if let Some(old) = old {
        let mut before = Vec::new();
        walk(node, old, path, &mut before);
        if !before.is_empty() {
            return;
        }
    }
    walk(node, object, path, causes);
}

fn walk(node: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Value::Array(items) = value {
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let identity = match &node.list {
                ListKind::Atomic => break,
                ListKind::Set => item.clone(),
                ListKind::Map(keys) => Value::Object(identity(node, item, keys)),
            };
            // Serialised, since JSON values have no hash; object keys are sorted.
            if !seen.insert(identity.to_string()) {
                causes.push(Cause::duplicate(&format!("{path}[{index}]"), &identity));
            }
        }
    }
    validate::children(node, value, None, path, |child, value, _, path| walk(child, value, &path, causes));
}

fn identity(node: &Node, item: &Value, keys: &[String]) -> Map<String, Value> {
    let default = |key: &String| node.items.as_ref()?.properties.get(key)?.default.clone();
    keys.iter()
        .filter_map(|key| Some((key.clone(), item.get(key).cloned().or_else(|| default(key))?)))
        .collect()
}
