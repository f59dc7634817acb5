//! JSON merge patch (RFC 7386).
//!
//! Walks with a heap-allocated stack: the signature has no error, so that depth must not matter.

use serde_json::{Map, Value};

/// Merges `patch` into `target`: objects merge, null deletes, anything else replaces.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let mut pending = vec![(target, patch)];
    while let Some((target, patch)) = pending.pop() {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            continue;
        };
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let Value::Object(fields) = target else { continue };
        for (key, value) in patch {
            if value.is_null() {
                fields.remove(key);
            } else {
                fields.entry(key.as_str()).or_insert(Value::Null);
            }
        }
        for (key, slot) in fields.iter_mut() {
            if let Some(value) = patch.get(key) {
                pending.push((slot, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (mut target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            merge_patch(&mut target, &patch);
            assert_eq!(target, expected);
        }
    }
}
