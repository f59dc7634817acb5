//! Protobuf, as kubectl sends the two built-in kinds that it creates by itself (`kubectl create secret` and `create
//! namespace`), whatever the server prefers. It reads JSON answers.
//!
//! Just these messages are known, by tables of their fields, and become JSON at once. Limits are those of the body:
//! messages nest no deeper than the tables do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::clock::rfc3339;

/// What the body begins with; the rest is a `runtime.Unknown`.
const MAGIC: &[u8] = b"k8s\0";

/// A field of a message: its number, its name in JSON, and what it holds.
type Field = (u64, &'static str, Type);

#[derive(Clone, Copy)]
enum Type {
    Text,
    Number,
    Flag,
    Time,
    Texts,
    TextMap,
    BytesMap,
    Message(&'static [Field]),
    Messages(&'static [Field]),
}

const OWNER_REFERENCE: &[Field] = &[
    (1, "kind", Type::Text),
    (3, "name", Type::Text),
    (4, "uid", Type::Text),
    (5, "apiVersion", Type::Text),
    (6, "controller", Type::Flag),
    (7, "blockOwnerDeletion", Type::Flag),
];

/// Without what only the server sets.
const OBJECT_META: &[Field] = &[
    (1, "name", Type::Text),
    (2, "generateName", Type::Text),
    (3, "namespace", Type::Text),
    (5, "uid", Type::Text),
    (6, "resourceVersion", Type::Text),
    (7, "generation", Type::Number),
    (8, "creationTimestamp", Type::Time),
    (11, "labels", Type::TextMap),
    (12, "annotations", Type::TextMap),
    (13, "ownerReferences", Type::Messages(OWNER_REFERENCE)),
    (14, "finalizers", Type::Texts),
];

const NAMESPACE: &[Field] = &[(1, "metadata", Type::Message(OBJECT_META))];

const SECRET: &[Field] = &[
    (1, "metadata", Type::Message(OBJECT_META)),
    (2, "data", Type::BytesMap),
    (3, "type", Type::Text),
    (4, "stringData", Type::TextMap),
    (5, "immutable", Type::Flag),
];

const TYPE_META: &[Field] = &[(1, "apiVersion", Type::Text), (2, "kind", Type::Text)];

/// The object, if it is one of those known here.
pub(super) fn decode(body: &[u8]) -> Option<Value> {
    let mut object = None;
    let mut raw: &[u8] = &[];
    for field in Fields(body.strip_prefix(MAGIC)?) {
        match field? {
            (1, Wire::Bytes(bytes)) => object = Some(message(bytes, TYPE_META)?),
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = object?;
    let fields = match (object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "Secret") => SECRET,
        _ => return None,
    };
    object.append(&mut message(raw, fields)?);
    Some(Value::Object(object))
}

/// Fields that are not in the table are left out, as protobuf has it.
fn message(bytes: &[u8], fields: &[Field]) -> Option<Map<String, Value>> {
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let Some((_, name, kind)) = fields.iter().find(|(known, ..)| *known == number) else { continue };
        let value = object.entry(*name).or_insert(Value::Null);
        match (kind, wire) {
            (Type::Text, Wire::Bytes(bytes)) => *value = json!(std::str::from_utf8(bytes).ok()?),
            (Type::Number, Wire::Varint(number)) => *value = json!(number.cast_signed()),
            (Type::Flag, Wire::Varint(number)) => *value = json!(number != 0),
            (Type::Time, Wire::Bytes(bytes)) => *value = time(bytes)?,
            (Type::Message(fields), Wire::Bytes(bytes)) => *value = message(bytes, fields)?.into(),
            (Type::Messages(fields), Wire::Bytes(bytes)) => push(value, message(bytes, fields)?.into()),
            (Type::Texts, Wire::Bytes(bytes)) => push(value, json!(std::str::from_utf8(bytes).ok()?)),
            (Type::TextMap, Wire::Bytes(bytes)) => {
                let (key, bytes) = entry(bytes)?;
                insert(value, key, json!(std::str::from_utf8(bytes).ok()?));
            }
            (Type::BytesMap, Wire::Bytes(bytes)) => {
                let (key, bytes) = entry(bytes)?;
                insert(value, key, json!(STANDARD.encode(bytes)));
            }
            _ => return None,
        }
    }
    Some(object)
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        list => *list = Value::Array(vec![item]),
    }
}

fn insert(map: &mut Value, key: &str, item: Value) {
    match map {
        Value::Object(entries) => {
            entries.insert(key.to_owned(), item);
        }
        map => *map = json!({ key: item }),
    }
}

/// An entry of a map is a message of a key and a value.
fn entry(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (mut key, mut value) = ("", &[][..]);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(bytes)) => key = std::str::from_utf8(bytes).ok()?,
            (2, Wire::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Some((key, value))
}

/// Seconds since 1970; the time that is not set has none.
fn time(bytes: &[u8]) -> Option<Value> {
    for field in Fields(bytes) {
        if let (1, Wire::Varint(seconds)) = field? {
            return Some(json!(rfc3339(Timestamp::from_second(seconds.cast_signed()).ok()?)));
        }
    }
    Some(Value::Null)
}

enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a type that no field known here has.
    Other,
}

/// The fields of a message, one by one. After one that cannot be read (`None`), nothing can be.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Other)?,
            _ => return None,
        };
        Some((key >> 3, wire))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `kubectl create namespace team` sends.
    const TEAM: &[u8] =
        b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x1c\x0a\x14\x0a\x04team\x12\0\x1a\0\x22\0\
                          \x2a\0\x32\08\0B\0\x12\0\x1a\x02\x0a\0\x1a\0\x22\0";

    #[test]
    fn what_kubectl_sends_becomes_json() {
        let namespace = decode(TEAM).unwrap();
        assert_eq!(namespace["apiVersion"], "v1");
        assert_eq!(namespace["kind"], "Namespace");
        assert_eq!(namespace["metadata"]["name"], "team");
        assert_eq!(namespace["metadata"]["creationTimestamp"], Value::Null);
    }

    #[test]
    fn bytes_become_base64() {
        let secret = b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret\x12\x11\x0a\x03\x0a\x01s\x12\x06\x0a\x01a\x12\x01b\x1a\x02Op";
        let secret = decode(secret).unwrap();
        assert_eq!(secret["data"], json!({ "a": "Yg==" }));
        assert_eq!(secret["type"], "Op");
    }

    #[test]
    fn a_body_that_is_cut_off_or_wrong_is_refused() {
        for end in 0..TEAM.len() {
            let _ = decode(&TEAM[..end]);
        }
        assert!(decode(b"").is_none());
        assert!(decode(b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_none());
        assert!(decode(&TEAM[..20]).is_none());
    }
}
