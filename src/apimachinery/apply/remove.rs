//! An object without some of its fields.

use serde_json::Value;

use super::field_set::FieldSet;
use super::path_element::PathElement;
use super::shape::{self, Shape};
use crate::apimachinery::schema::Node;

/// `object` without the members of `fields`; what a map or list held beside them stays.
pub(super) fn remove(root: &Node, object: &Value, fields: &FieldSet) -> Value {
    removed(Some(root), object, fields, 0)
}

fn removed(node: Option<&Node>, value: &Value, fields: &FieldSet, depth: usize) -> Value {
    let child = |element: &PathElement, node: Option<&Node>, value: &Value| {
        if fields.contains(element) {
            return None;
        }
        Some(match fields.below(element) {
            Some(below) => removed(node, value, below, depth + 1),
            None => value.clone(),
        })
    };
    match (Shape::of(node, value, depth), value) {
        (Shape::Map(node), Value::Object(entries)) => {
            let kept = entries.iter().filter_map(|(key, value)| {
                let below = node.and_then(|node| node.field(key).0);
                Some((key.clone(), child(&PathElement::field(key), below, value)?))
            });
            Value::Object(kept.collect())
        }
        (Shape::List(node), Value::Array(items)) => {
            let kept = items
                .iter()
                .filter_map(|item| child(&shape::element(node, item), node.items.as_deref(), item));
            Value::Array(kept.collect())
        }
        _ => value.clone(),
    }
}
