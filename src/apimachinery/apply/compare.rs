//! What differs between two states of an object, field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::field_set::FieldSet;
use super::path_element::PathElement;
use super::shape::{self, Shape};
use crate::apimachinery::schema::Node;

/// The fields that an update has added, modified and removed.
#[derive(Default)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    pub(super) fn of(root: &Node, before: &Value, after: &Value) -> Self {
        let mut walk = Walk { result: Self::default(), path: Vec::new() };
        walk.compare(Some(root), Some(before), Some(after));
        walk.result
    }

    /// What the author of the new state has set.
    pub(super) fn changed(&self) -> FieldSet {
        self.added.union(&self.modified)
    }
}

struct Walk {
    result: Comparison,
    path: Vec<PathElement>,
}

impl Walk {
    fn compare(&mut self, node: Option<&Node>, before: Option<&Value>, after: Option<&Value>) {
        let depth = self.path.len();
        let shape = |value| Shape::of(node, value, depth);
        let was_leaf = match (before.map(shape), after.map(shape)) {
            (None, None) => return,
            (Some(shape), None) | (None, Some(shape)) => self.visit(shape, before, after),
            (Some(old), Some(new)) if old.is_like(new) => self.visit(new, before, after),
            // A map that has become a list, say: everything in the one goes, everything in the other comes.
            (Some(old), Some(new)) => {
                self.visit(old, before, after);
                self.visit(new, before, after)
            }
        };
        if !was_leaf {
            match (before, after) {
                (None, _) => self.result.added.insert(&self.path),
                (_, None) => self.result.removed.insert(&self.path),
                _ => {}
            }
        }
    }

    /// Compares as `shape`; returns whether that was as a leaf.
    fn visit(&mut self, shape: Shape, before: Option<&Value>, after: Option<&Value>) -> bool {
        match shape {
            Shape::Leaf => self.leaf(before, after),
            Shape::Map(node) => {
                let old = before.and_then(Value::as_object).filter(|fields| !fields.is_empty());
                let new = after.and_then(Value::as_object).filter(|fields| !fields.is_empty());
                if old.is_none() && new.is_none() {
                    return self.leaf(before, after);
                }
                let keys: BTreeSet<_> = old.into_iter().chain(new).flat_map(|fields| fields.keys()).collect();
                for key in keys {
                    let child = node.and_then(|node| node.field(key).0);
                    let (before, after) =
                        (old.and_then(|old| old.get(key)), new.and_then(|new| new.get(key)));
                    self.descend(PathElement::field(key), child, before, after);
                }
                false
            }
            Shape::List(node) => {
                let old: BTreeMap<_, _> = shape::items(node, before).into_iter().rev().collect();
                let new: BTreeMap<_, _> = shape::items(node, after).into_iter().rev().collect();
                if old.is_empty() && new.is_empty() {
                    return self.leaf(before, after);
                }
                let elements: BTreeSet<_> = old.keys().chain(new.keys()).cloned().collect();
                for element in elements {
                    let (before, after) = (old.get(&element).copied(), new.get(&element).copied());
                    self.descend(element, node.items.as_deref(), before, after);
                }
                false
            }
        }
    }

    fn descend(
        &mut self,
        element: PathElement,
        node: Option<&Node>,
        before: Option<&Value>,
        after: Option<&Value>,
    ) {
        self.path.push(element);
        self.compare(node, before, after);
        self.path.pop();
    }

    fn leaf(&mut self, before: Option<&Value>, after: Option<&Value>) -> bool {
        match (before, after) {
            (None, _) => self.result.added.insert(&self.path),
            (_, None) => self.result.removed.insert(&self.path),
            (before, after) if before != after => self.result.modified.insert(&self.path),
            _ => {}
        }
        true
    }
}
