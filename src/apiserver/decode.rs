//! JSON from outside.
//!
//! `serde_json` keeps the last of two equal keys and says nothing; `fieldValidation` has to tell. Nesting is limited
//! by `serde_json` to 128 levels, which everything behind this may rely on.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// More of them do not make a message better.
const MAX_DUPLICATES: usize = 20;

/// A value and the paths of the keys that are there more than once.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) value: Value,
    pub(super) duplicates: Vec<String>,
}

pub(super) fn json(bytes: &[u8]) -> Result<Decoded, serde_json::Error> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node { path: Path::Root, duplicates: &duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

/// A value under way. Paths are linked upwards: they are only written out for a duplicate.
#[derive(Clone, Copy)]
struct Node<'a> {
    path: Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) =
            items.next_element_seed(Node { path: Path::Index(&self.path, values.len()), ..self })?
        {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = Path::Key(&self.path, &key);
            let value = entries.next_value_seed(Node { path, ..self })?;
            if map.contains_key(&key) && self.duplicates.borrow().len() < MAX_DUPLICATES {
                self.duplicates.borrow_mut().push(path.to_string());
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_there_twice_are_told_with_their_paths() {
        let decoded = json(br#"{"a":1,"b":[{"c":1},{"c":1,"c":2}],"a":2}"#).unwrap();
        assert_eq!(decoded.duplicates, ["b[1].c", "a"]);
        assert_eq!(decoded.value, serde_json::json!({ "a": 2, "b": [{ "c": 1 }, { "c": 2 }] }));
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        let deep = "[".repeat(1_000_000);
        assert!(json(deep.as_bytes()).is_err());
        let deep = "{\"a\":".repeat(1_000_000);
        assert!(json(deep.as_bytes()).is_err());
    }

    #[test]
    fn nothing_may_follow_the_value() {
        assert!(json(b"{} {}").is_err());
        assert!(json(b"{} \n").is_ok());
    }
}
