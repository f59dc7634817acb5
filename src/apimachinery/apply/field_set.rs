//! A set of fields of one object.
//!
//! A tree: what is a member is owned itself, what has children leads to members. Owning a field does not mean owning
//! its parents, and owning a map does not mean owning what is in it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::path_element::PathElement;
use crate::apimachinery::depth::MAX_DEPTH;
use crate::apimachinery::schema::Node;

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    members: BTreeSet<PathElement>,
    children: BTreeMap<PathElement, Self>,
}

impl FieldSet {
    /// Adds the field at `path`; the object itself is never a member.
    pub(super) fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn contains(&self, element: &PathElement) -> bool {
        self.members.contains(element)
    }

    /// The members below `element`.
    pub(super) fn below(&self, element: &PathElement) -> Option<&Self> {
        self.children.get(element)
    }

    /// Branches without members are never kept, so this looks at one level.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.members.extend(other.members.iter().cloned());
        for (element, child) in &other.children {
            let slot = union.children.entry(element.clone()).or_default();
            *slot = slot.union(child);
        }
        union
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let common = |(element, child): (&PathElement, &Self)| {
            let common = child.intersection(other.children.get(element)?);
            (!common.is_empty()).then(|| (element.clone(), common))
        };
        Self {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: self.children.iter().filter_map(common).collect(),
        }
    }

    /// The members that `other` does not have; a member of `other` does not take the members below it along.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let rest = |(element, child): (&PathElement, &Self)| {
            let rest =
                other.children.get(element).map_or_else(|| child.clone(), |other| child.difference(other));
            (!rest.is_empty()).then(|| (element.clone(), rest))
        };
        Self {
            members: self.members.difference(&other.members).cloned().collect(),
            children: self.children.iter().filter_map(rest).collect(),
        }
    }

    /// This set with the parents that the schema names: they exist for their fields and nobody owns them alone.
    pub(super) fn with_named_parents(&self, node: &Node) -> Self {
        self.named_parents(Some(node))
    }

    fn named_parents(&self, node: Option<&Node>) -> Self {
        let mut all = Self { members: self.members.clone(), children: BTreeMap::new() };
        for (element, child) in &self.children {
            let (below, named) = match (node, element.field_name()) {
                (Some(node), Some(name)) => node.field(name),
                (Some(node), None) => (node.items.as_deref(), false),
                (None, _) => (None, false),
            };
            if named {
                all.members.insert(element.clone());
            }
            all.children.insert(element.clone(), child.named_parents(below));
        }
        all
    }

    /// The path of every member as messages print it, e.g. `.spec.storage`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(self.members.iter().map(|element| format!("{prefix}{element}")));
        for (element, child) in &self.children {
            child.collect_paths(&format!("{prefix}{element}"), paths);
        }
    }

    /// The `FieldsV1` form.
    pub(super) fn to_json(&self) -> Value {
        let mut fields: Map<String, Value> = self
            .children
            .iter()
            .map(|(element, child)| (element.as_str().to_owned(), child.to_json()))
            .collect();
        for element in &self.members {
            match fields.get_mut(element.as_str()) {
                Some(Value::Object(child)) => {
                    child.insert(".".to_owned(), Value::Object(Map::new()));
                }
                _ => {
                    fields.insert(element.as_str().to_owned(), Value::Object(Map::new()));
                }
            }
        }
        Value::Object(fields)
    }

    /// Reads the `FieldsV1` form; none when it is not one.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Option<Self> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut set = Self::default();
        for (key, below) in value.as_object()? {
            if key == "." {
                continue;
            }
            let element = PathElement::parse(key)?;
            let fields = below.as_object()?;
            if fields.is_empty() || fields.contains_key(".") {
                set.members.insert(element.clone());
            }
            let child = Self::read(below, depth + 1)?;
            if !child.is_empty() {
                set.children.insert(element, child);
            }
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: &Value) -> FieldSet {
        FieldSet::from_json(value).unwrap()
    }

    #[test]
    fn fields_v1_survives_a_round_trip() {
        let json = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}}}},
        });
        assert_eq!(set(&json).to_json(), json);
        assert!(FieldSet::from_json(&json!({"spec": {}})).is_none());
        assert!(FieldSet::from_json(&json!({"f:spec": 1})).is_none());
    }

    #[test]
    fn sets_combine_member_by_member() {
        let a = set(&json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}}));
        let b = set(&json!({"f:a": {".": {}, "f:b": {}}, "f:d": {}}));
        assert_eq!(a.difference(&b), set(&json!({"f:a": {"f:c": {}}})));
        assert_eq!(a.intersection(&b), set(&json!({"f:a": {".": {}, "f:b": {}}})));
        assert_eq!(a.union(&b), set(&json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}})));
        assert!(a.difference(&a).is_empty());
        assert_eq!(b.paths(), [".a", ".d", ".a.b"]);
    }
}
