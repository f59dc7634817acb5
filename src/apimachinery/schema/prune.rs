//! Removes the fields that the schema does not know.
//!
//! The walk follows the schema, never the object alone, so that its depth is the schema's.

use serde_json::Value;

use super::node::{Additional, Node};

/// Removes unknown fields under `value`; appends the path of each to `removed`.
pub(super) fn prune(node: &Node, value: &mut Value, path: &str, removed: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if matches!(node.additional, Additional::None) {
                fields.retain(|key, _| {
                    let known = node.properties.contains_key(key)
                        || node.embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata");
                    if !known {
                        removed.push(super::child_path(path, key));
                    }
                    known
                });
            }
            for (key, field) in fields {
                if let (Some(child), _) = node.field(key) {
                    prune(child, field, &super::child_path(path, key), removed);
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(child, item, &format!("{path}[{index}]"), removed);
                }
            }
        }
        _ => {}
    }
}
