//! The fields that a configuration sets, and that its manager therefore owns.

use serde_json::Value;

use super::field_set::FieldSet;
use super::path_element::PathElement;
use super::shape::{self, Shape};
use crate::apimachinery::schema::Node;

/// The fields set by `object`.
pub(super) fn fields(root: &Node, object: &Value) -> FieldSet {
    let mut fields = FieldSet::default();
    collect(Some(root), object, &mut Vec::new(), &mut fields);
    fields
}

fn collect(node: Option<&Node>, value: &Value, path: &mut Vec<PathElement>, fields: &mut FieldSet) {
    match Shape::of(node, value, path.len()) {
        Shape::Leaf => fields.insert(path),
        Shape::Map(node) => {
            for (key, field) in value.as_object().into_iter().flatten() {
                let (child, named) = node.map_or((None, false), |node| node.field(key));
                path.push(PathElement::field(key));
                collect(child, field, path, fields);
                // A named field is there for what it holds; an empty one, or the entry of a map, is there itself.
                if !named || field.is_null() || field.as_object().is_some_and(serde_json::Map::is_empty) {
                    fields.insert(path);
                }
                path.pop();
            }
        }
        Shape::List(node) => {
            for (element, item) in shape::items(node, Some(value)) {
                path.push(element);
                collect(node.items.as_deref(), item, path, fields);
                fields.insert(path);
                path.pop();
            }
        }
    }
}
