//! Fills in defaults.
//!
//! An absent field gets its default. A `null` that the schema does not allow is removed first, so that writing it is
//! how a client asks for the default back; only in lists it stays for validation to refuse, where removing it would
//! move the other items.

use serde_json::Value;

use super::node::Node;

/// Applies the defaults of `node` and its children to `value`.
pub(super) fn apply_defaults(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, field| {
                !field.is_null() || node.field(key).0.is_none_or(|child| child.nullable)
            });
            for (key, child) in &node.properties {
                if let Some(default) = child.default.as_ref().filter(|_| !fields.contains_key(key)) {
                    fields.insert(key.clone(), default.clone());
                }
            }
            for (key, field) in fields {
                if let (Some(child), _) = node.field(key) {
                    apply_defaults(child, field);
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = &node.items else { return };
            for item in items {
                match &child.default {
                    Some(default) if item.is_null() && !child.nullable => *item = default.clone(),
                    _ => {}
                }
                apply_defaults(child, item);
            }
        }
        _ => {}
    }
}
