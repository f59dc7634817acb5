//! JSON as CEL sees it, through the schema.
//!
//! Property names are escaped as Kubernetes does (`namespace` is `__namespace__`), integers and floats follow the
//! declared type rather than the digits, and of `metadata` only the names are visible at the root.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::Value as Cel;
use cel::objects::{Key, Map};
use serde_json::Value;

use super::node::{Kind, Node};
use crate::apimachinery::depth::MAX_DEPTH;

/// Words that CEL reserves and that a property name is therefore escaped for.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

static TEXT: LazyLock<Node> = LazyLock::new(|| Node::of_kind(Kind::String));

/// The object at the root of a resource as `self`.
pub(super) fn root(node: &Node, object: &Value) -> Cel {
    let Some(fields) = object.as_object() else { return convert(Some(node), object, 0) };
    let mut map = HashMap::new();
    for (key, field) in fields {
        let value = match key.as_str() {
            "metadata" => names(field),
            "apiVersion" | "kind" => convert(Some(&TEXT), field, 1),
            _ => convert(node.field(key).0, field, 1),
        };
        map.insert(property_key(node, key), value);
    }
    Cel::Map(Map { map: Arc::new(map) })
}

fn names(metadata: &Value) -> Cel {
    let map = ["name", "generateName"]
        .into_iter()
        .filter_map(|key| Some((Key::from(key.to_owned()), convert(Some(&TEXT), metadata.get(key)?, 1))))
        .collect();
    Cel::Map(Map { map: Arc::new(map) })
}

/// Any value below the root as CEL sees it.
pub(super) fn of(node: &Node, value: &Value) -> Cel {
    convert(Some(node), value, 0)
}

fn convert(node: Option<&Node>, value: &Value, depth: usize) -> Cel {
    // Only what a schema preserves unknown can be deeper than the schema; a rule cannot name that.
    if depth > MAX_DEPTH {
        return Cel::Null;
    }
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Number(number) => {
            let as_float = node.is_some_and(|node| node.kind == Some(Kind::Number));
            match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(integer), _, _) if !as_float => Cel::Int(integer),
                (_, Some(integer), _) if !as_float => Cel::UInt(integer),
                #[allow(clippy::cast_possible_truncation)]
                (_, _, Some(float)) if !as_float && node.is_some() && float.fract() == 0.0 => {
                    Cel::Int(float as i64)
                }
                (_, _, float) => Cel::Float(float.unwrap_or(f64::NAN)),
            }
        }
        Value::Array(items) => {
            let child = node.and_then(|node| node.items.as_deref());
            Cel::List(Arc::new(items.iter().map(|item| convert(child, item, depth + 1)).collect()))
        }
        Value::Object(fields) => {
            let mut map = HashMap::new();
            for (key, field) in fields {
                let child = node.and_then(|node| node.field(key).0);
                let key = node.map_or_else(|| Key::from(key.clone()), |node| property_key(node, key));
                map.insert(key, convert(child, field, depth + 1));
            }
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// Keys of maps are data and stay as they are; names of properties are identifiers.
fn property_key(node: &Node, key: &str) -> Key {
    Key::from(if node.properties.contains_key(key) { escape(key) } else { key.to_owned() })
}

fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn property_names_are_escaped_as_kubernetes_does() {
        for (name, escaped) in [
            ("namespace", "__namespace__"),
            ("name", "name"),
            ("a-b", "a__dash__b"),
            ("a.b/c", "a__dot__b__slash__c"),
            ("a__b", "a__underscores__b"),
        ] {
            assert_eq!(escape(name), escaped);
        }
    }
}
