//! JSON Patch (RFC 6902), bounded.
//!
//! The operations are those of the `json-patch` crate; the bounds on their number, on what `copy` may add up to and on
//! the depth of the result are the API server's answer to patches that multiply a document.
//!
//! In one thing kube-apiserver differs from the RFC: a `test` for `null` holds when nothing is at the path. The
//! finalizers of `kube` rely on it: they test that an object has none before they add the first.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::PatchError;
use crate::apimachinery::depth::{self, MAX_DEPTH};

const MAX_OPERATIONS: usize = 10_000;
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Applies a JSON Patch document.
///
/// # Errors
/// See [`PatchError`]; the target is unchanged then.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if depth::is_excessive(patch) {
        return Err(PatchError::TooLarge("the patch is nested too deeply".to_owned()));
    }
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > MAX_OPERATIONS {
        let message =
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {operations}");
        return Err(PatchError::TooLarge(message));
    }
    let Patch(operations) = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;

    let mut patched = target.clone();
    let mut copied = 0;
    // An upper bound, so that not each of ten thousand operations walks the whole document.
    let mut deepest = depth::of(&patched);
    for operation in &operations {
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && patched.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        if let PatchOperation::Copy(copy) = operation {
            copied += patched.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED_BYTES {
                let message = format!("the copies of the patch exceed {MAX_COPIED_BYTES} bytes");
                return Err(PatchError::TooLarge(message));
            }
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Inapplicable(error.to_string()))?;
        deepest = deepest.max(reach(operation, deepest));
        if deepest > MAX_DEPTH {
            deepest = depth::of(&patched);
        }
        // Checked before the next operation, which would recurse over what this one has built.
        if deepest > MAX_DEPTH {
            return Err(PatchError::TooLarge("the patched object would be nested too deeply".to_owned()));
        }
    }
    *target = patched;
    Ok(())
}

/// How deep the document can be at the place that the operation writes, when it was `deepest` before.
fn reach(operation: &PatchOperation, deepest: usize) -> usize {
    match operation {
        PatchOperation::Add(add) => add.path.count() + depth::of(&add.value),
        PatchOperation::Replace(replace) => replace.path.count() + depth::of(&replace.value),
        PatchOperation::Move(to) => to.path.count() + deepest,
        PatchOperation::Copy(to) => to.path.count() + deepest,
        PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_in_order() {
        let mut target = json!({"a": 1, "l": [1]});
        let patch = json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "replace", "path": "/a", "value": 2},
            {"op": "add", "path": "/l/-", "value": 2},
            {"op": "remove", "path": "/l/0"},
        ]);
        json_patch(&mut target, &patch).unwrap();
        assert_eq!(target, json!({"a": 2, "l": [2]}));
    }

    #[test]
    fn a_failed_test_leaves_the_target_alone() {
        let mut target = json!({"a": 1});
        let patch =
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a", "value": 2}]);
        assert!(matches!(json_patch(&mut target, &patch), Err(PatchError::Inapplicable(_))));
        assert_eq!(target, json!({"a": 1}));
    }

    #[test]
    fn what_is_not_there_is_null() {
        let patch = json!([
            {"op": "test", "path": "/a", "value": null},
            {"op": "add", "path": "/a", "value": 1},
        ]);
        let mut target = json!({});
        json_patch(&mut target, &patch).unwrap();
        assert_eq!(target, json!({"a": 1}));
        assert!(json_patch(&mut target, &patch).is_err(), "now it is there");
        json_patch(&mut json!({"a": null}), &patch).unwrap();
    }

    #[test]
    fn what_was_removed_before_the_test_is_not_there() {
        let mut target = json!({"a": 1});
        let patch = json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/a", "value": null}]);
        json_patch(&mut target, &patch).unwrap();
        assert_eq!(target, json!({}));
    }

    #[test]
    fn what_is_no_patch_is_malformed() {
        for patch in
            [json!({}), json!([{"op": "jump"}]), json!([{"op": "add", "path": "a", "value": 1}]), json!(1)]
        {
            assert!(matches!(json_patch(&mut json!({}), &patch), Err(PatchError::Malformed(_))), "{patch}");
        }
    }

    #[test]
    fn a_copy_bomb_is_refused() {
        let mut target = json!({"a": "x".repeat(100)});
        let bomb: Vec<_> =
            (0..64).map(|n| json!({"op": "copy", "from": "", "path": format!("/c{n}")})).collect();
        assert!(matches!(json_patch(&mut target, &Value::Array(bomb)), Err(PatchError::TooLarge(_))));
        let ladder: Vec<_> =
            (0..500).map(|n| json!({"op": "add", "path": "/a".repeat(n + 1), "value": {}})).collect();
        assert!(matches!(json_patch(&mut json!({}), &Value::Array(ladder)), Err(PatchError::TooLarge(_))));
    }

    #[test]
    fn too_many_operations_are_refused() {
        let patch = Value::Array(vec![json!({"op": "test", "path": "/a", "value": 1}); 10_001]);
        assert!(matches!(json_patch(&mut json!({"a": 1}), &patch), Err(PatchError::TooLarge(_))));
    }
}
