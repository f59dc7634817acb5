//! An applied configuration merged over the live object.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::path_element::PathElement;
use super::shape::{self, Shape};
use crate::apimachinery::schema::Node;

/// `live` with everything that `configuration` sets.
pub(super) fn merge(root: &Node, live: &Value, configuration: &Value) -> Value {
    merged(Some(root), live, configuration, 0)
}

fn merged(node: Option<&Node>, live: &Value, configuration: &Value, depth: usize) -> Value {
    let (old, new) = (Shape::of(node, live, depth), Shape::of(node, configuration, depth));
    match new {
        Shape::Map(node) if old.is_like(new) => match (live, configuration) {
            (Value::Object(live), Value::Object(configuration)) => {
                Value::Object(merged_fields(node, live, configuration, depth))
            }
            // A null map says nothing about the fields that are there.
            (Value::Object(fields), _) if !fields.is_empty() => live.clone(),
            _ => configuration.clone(),
        },
        Shape::List(node) if old.is_like(new) => {
            let (live_items, items) =
                (shape::items(node, Some(live)), shape::items(node, Some(configuration)));
            if live_items.is_empty() && items.is_empty() {
                return configuration.clone();
            }
            Value::Array(merged_items(node, &live_items, &items, depth))
        }
        _ => configuration.clone(),
    }
}

fn merged_fields(
    node: Option<&Node>,
    live: &Map<String, Value>,
    configuration: &Map<String, Value>,
    depth: usize,
) -> Map<String, Value> {
    let mut fields = live.clone();
    for (key, value) in configuration {
        let child = node.and_then(|node| node.field(key).0);
        let value = match live.get(key) {
            Some(live) => merged(child, live, value, depth + 1),
            None => value.clone(),
        };
        fields.insert(key.clone(), value);
    }
    fields
}

type Items<'a> = [(PathElement, &'a Value)];

/// Items that only one side has keep their place relative to their neighbours; the configuration orders the shared.
fn merged_items(node: &Node, live: &Items, configuration: &Items, depth: usize) -> Vec<Value> {
    let in_live: BTreeMap<_, _> = live.iter().map(|(element, item)| (element, *item)).collect();
    let in_configuration: BTreeMap<_, _> =
        configuration.iter().map(|(element, item)| (element, *item)).collect();
    let mut shared =
        configuration.iter().map(|(element, _)| element).filter(|one| in_live.contains_key(one)).peekable();
    let mut out = Vec::new();
    let mut left = live.iter().peekable();
    let mut right = configuration.iter().peekable();
    loop {
        if let Some((element, item)) = left.peek() {
            if !in_configuration.contains_key(element) {
                out.push((*item).clone());
                left.next();
                continue;
            }
            // A shared item takes its place where the configuration has it.
            if right.peek().is_none() || shared.peek().is_some_and(|next| *next != element) {
                left.next();
                continue;
            }
        }
        let Some((element, item)) = right.next() else { return out };
        out.push(match in_live.get(element) {
            Some(live) => merged(node.items.as_deref(), live, item, depth + 1),
            None => (*item).clone(),
        });
        if shared.next_if(|next| *next == element).is_some() {
            left.next_if(|(one, _)| one == element);
        }
    }
}
