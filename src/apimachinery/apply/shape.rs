//! What a value is to field ownership: a leaf, a map of fields or a list of identifiable items.
//!
//! The schema decides where the value fits it; elsewhere the value does, and then lists are leaves and maps are not.

use serde_json::{Map, Value};

use super::path_element::PathElement;
use crate::apimachinery::depth::MAX_DEPTH;
use crate::apimachinery::schema::{Kind, ListKind, Node};

/// How a value takes part in merges and comparisons.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Owned and replaced as a whole.
    Leaf,
    /// Its fields are owned one by one.
    Map(Option<&'a Node>),
    /// Its items are identified by value or by keys.
    List(&'a Node),
}

impl<'a> Shape<'a> {
    /// The shape of `value` at `node`, `depth` levels below the object; what is too deep is a leaf.
    pub(super) fn of(node: Option<&'a Node>, value: &Value, depth: usize) -> Self {
        if depth >= MAX_DEPTH {
            return Self::Leaf;
        }
        let kind = node.and_then(|node| node.kind);
        match (value, node) {
            (Value::Object(_) | Value::Null, Some(node)) if kind == Some(Kind::Object) => {
                if node.atomic_map {
                    Self::Leaf
                } else {
                    Self::Map(Some(node))
                }
            }
            (Value::Array(_) | Value::Null, Some(node)) if kind == Some(Kind::Array) => {
                if node.list == ListKind::Atomic { Self::Leaf } else { Self::List(node) }
            }
            // A node without type preserves unknown fields and may still name some.
            (Value::Object(_), Some(node)) if kind.is_none() => Self::Map(Some(node)),
            (Value::Object(_), _) | (Value::Null, None) => Self::Map(None),
            _ => Self::Leaf,
        }
    }

    /// Whether two values of these shapes are merged field by field or item by item.
    pub(super) fn is_like(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Leaf, Self::Leaf) | (Self::Map(_), Self::Map(_)) | (Self::List(_), Self::List(_))
        )
    }
}

/// The items of a list with what identifies them. A repeated item is there twice: validation is to find it.
pub(super) fn items<'v>(node: &Node, list: Option<&'v Value>) -> Vec<(PathElement, &'v Value)> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.map(|item| (element(node, item), item)).collect()
}

/// What identifies an item: its keys, defaulted where the schema has a default, or else its value.
pub(super) fn element(node: &Node, item: &Value) -> PathElement {
    match (&node.list, item) {
        (ListKind::Map(keys), Value::Object(fields)) => {
            let default = |key: &str| node.items.as_ref()?.properties.get(key)?.default.clone();
            let key = |key: &String| {
                let value = fields.get(key).cloned().or_else(|| default(key))?;
                Some((key.clone(), value))
            };
            PathElement::key(keys.iter().filter_map(key).collect::<Map<_, _>>())
        }
        _ => PathElement::value(item),
    }
}
