//! JSON patches as kube-apiserver's library understands them, where RFC 6902 differs.
//!
//! There, a `test` for `null` holds when nothing is at the path. `kube`'s finalizers rely on it: they test that an object
//! has none before they add the first.

use crate::apimachinery::PatchError;
use serde_json::Value;

/// Each may cost a copy of the object. Nobody needs more.
const MAX: usize = 16;

pub(super) fn json_patch(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = patch.as_array().map(Vec::as_slice).unwrap_or_default();
    let tests = operations.iter().filter(|operation| null_test(operation).is_some()).count();
    if tests == 0 {
        return crate::apimachinery::json_patch(object, patch);
    }
    if tests > MAX {
        return Err(PatchError::TooLarge(format!("a patch may test for null {MAX} times")));
    }
    let mut pending: Vec<Value> = Vec::new();
    for operation in operations {
        if let Some(path) = null_test(operation) {
            crate::apimachinery::json_patch(object, &std::mem::take(&mut pending).into())?;
            if object.pointer(path).is_none() {
                continue;
            }
        }
        pending.push(operation.clone());
    }
    crate::apimachinery::json_patch(object, &pending.into())
}

/// The path of a test for null.
fn null_test(operation: &Value) -> Option<&str> {
    let is_test = operation.get("op")? == "test" && operation.get("value")?.is_null();
    operation.get("path")?.as_str().filter(|_| is_test)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_there_is_null() {
        let patch = json!([
            { "op": "test", "path": "/a", "value": null },
            { "op": "add", "path": "/a", "value": 1 },
        ]);
        let mut object = json!({});
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({ "a": 1 }));
        assert!(json_patch(&mut object, &patch).is_err(), "now it is there");
        let mut object = json!({ "a": null });
        json_patch(&mut object, &patch).unwrap();
    }

    #[test]
    fn operations_before_a_test_count() {
        let patch = json!([
            { "op": "remove", "path": "/a" },
            { "op": "test", "path": "/a", "value": null },
            { "op": "add", "path": "/b", "value": 1 },
        ]);
        let mut object = json!({ "a": 1 });
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({ "b": 1 }));
    }
}
