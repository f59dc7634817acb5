//! One step from an object to a field that is owned.
//!
//! Kept in its `FieldsV1` form (`f:spec`, `k:{"type":"Ready"}`, `v:"x"`, `i:0`), canonical, so that elements compare,
//! sort and serialise as they are; only messages need them in another form.

use std::fmt;

use serde_json::{Map, Value};

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PathElement(String);

impl PathElement {
    /// The field `name` of a map.
    pub(super) fn field(name: &str) -> Self {
        Self(format!("f:{name}"))
    }

    /// The item of a list that has these keys.
    pub(super) fn key(keys: Map<String, Value>) -> Self {
        Self(format!("k:{}", Value::Object(keys)))
    }

    /// The item of a set with this value.
    pub(super) fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
    }

    /// Reads the `FieldsV1` form; none when it is not one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self(text.to_owned())),
            // Written anew: another writer may have ordered keys or spaced the text otherwise.
            "k" => serde_json::from_str(rest).ok().map(Self::key),
            "v" => serde_json::from_str(rest).ok().map(|value| Self::value(&value)),
            "i" => rest.parse::<i64>().ok().map(|index| Self(format!("i:{index}"))),
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, if this is the field of a map.
    pub(super) fn field_name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, rest) = self.0.split_once(':').unwrap_or_default();
        match kind {
            "f" => write!(formatter, ".{rest}"),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let pairs: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(formatter, "[{}]", pairs.join(","))
            }
            "v" => write!(formatter, "[={rest}]"),
            _ => write!(formatter, "[{rest}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PathElement;

    #[test]
    fn elements_print_as_in_conflict_messages() {
        for (text, shown) in [
            ("f:spec", ".spec"),
            ("k:{\"type\":\"Ready\", \"a\":1}", "[a=1,type=\"Ready\"]"),
            ("v:\"x\"", "[=\"x\"]"),
            ("i:3", "[3]"),
        ] {
            assert_eq!(PathElement::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "spec", "x:spec", "k:[]", "v:", "i:x"] {
            assert_eq!(PathElement::parse(text), None, "{text}");
        }
    }
}
