//! How deep a JSON document may be nested.
//!
//! Everything recursive in this crate stops at [`MAX_DEPTH`], and a result deeper than that is refused where the
//! signature allows: a document that a client may not read back must not be stored, and a stack must not overflow.
//! The measure itself walks with a heap-allocated stack, so that it holds for any input.

use serde_json::Value;

/// The deepest nesting that is processed. `serde_json` refuses to parse more than 128 levels; the margin leaves room
/// for `metadata.managedFields`, whose entries mirror the object four levels further down.
pub const MAX_DEPTH: usize = 100;

/// How many levels of objects and arrays lie below `value`: 0 for a scalar or an empty container.
#[must_use]
pub fn of(value: &Value) -> usize {
    let mut deepest = 0;
    let mut pending = vec![(value, 0)];
    while let Some((value, depth)) = pending.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(items) => pending.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => pending.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    deepest
}

/// Whether `value` nests deeper than [`MAX_DEPTH`].
#[must_use]
pub fn is_excessive(value: &Value) -> bool {
    of(value) > MAX_DEPTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_in_objects_and_arrays() {
        assert_eq!(of(&serde_json::json!({"a": [{"b": 1}], "c": 1})), 3);
        assert_eq!(of(&serde_json::json!([])), 0);
    }
}
