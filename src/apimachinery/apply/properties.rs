//! What holds for any object, however wrong.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn schema() -> Schema {
    Schema::compile(&json!({
        "type": "object",
        "properties": {
            "a": {"type": "object", "additionalProperties": {"type": "string"}},
            "b": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "c": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}, "b": {"type": "string"}}},
            },
            "d": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    }))
    .unwrap()
}

/// Short keys, so that two random objects share some.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3_i64).prop_map(Value::from),
        Just(json!(1.5)),
        "[a-c]?".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            fields(inner).prop_map(Value::Object),
        ]
    })
}

fn fields(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key = prop_oneof![
        "[a-d]",
        Just("metadata".to_owned()),
        Just("labels".to_owned()),
        Just("managedFields".to_owned())
    ];
    prop::collection::btree_map(key, inner, 0..5).prop_map(|fields| fields.into_iter().collect())
}

fn any_object() -> impl Strategy<Value = Value> {
    fields(any_json()).prop_map(Value::Object)
}

fn manager(name: &str) -> Manager<'_> {
    Manager { name, subresource: None, api_version: "v1", now: "2026-01-01T00:00:00Z" }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_on_arbitrary_json(live in any_json(), applied in any_json(), patch in any_json()) {
        let schema = schema();
        for force in [false, true] {
            for name in ["me", "kubectl"] {
                let _ = apply(&schema, Some(&live), &applied, &manager(name), force);
                let _ = apply(&schema, None, &applied, &manager(name), force);
            }
        }
        let mut new = applied.clone();
        track_update(&schema, Some(&live), &mut new, &manager("me"));
        let mut pruned = applied.clone();
        schema.prune(&mut pruned);
        schema.apply_defaults(&mut pruned);
        let _ = schema.validate(&pruned, Some(&live));
        prop_assert!(schema.prune(&mut pruned).is_empty());
        let mut target = live.clone();
        crate::apimachinery::merge_patch(&mut target, &patch);
        let _ = crate::apimachinery::json_patch(&mut target, &patch);
        let _ = crate::apimachinery::strategic_merge_patch(&mut target, &patch);
    }

    #[test]
    fn applying_twice_is_applying_once(live in any_object(), mut applied in any_object()) {
        let schema = schema();
        // Without any owner the second apply would find "before-first-apply".
        applied["d"] = json!({"owned": 1});
        // Validation refuses a configuration with duplicate items.
        let duplicate = crate::apimachinery::CauseReason::FieldValueDuplicate;
        if schema.validate(&applied, None).iter().any(|cause| cause.reason == duplicate) {
            return Ok(());
        }
        let once = apply(&schema, Some(&live), &applied, &manager("me"), true).unwrap();
        let later = Manager { now: "2027-01-01T00:00:00Z", ..manager("me") };
        let twice = apply(&schema, Some(&once), &applied, &later, false);
        prop_assert_eq!(twice, Ok(once));
    }

    #[test]
    fn an_update_without_change_keeps_every_owner(object in any_object()) {
        let schema = schema();
        let mut live = object;
        live["metadata"] = json!({"name": "a", "uid": "1"});
        track_update(&schema, None, &mut live, &manager("me"));
        let mut same = live.clone();
        track_update(&schema, Some(&live), &mut same, &manager("you"));
        prop_assert_eq!(same, live);
    }

    #[test]
    fn what_was_applied_over_nothing_can_be_withdrawn(applied in any_object()) {
        let schema = schema();
        let mut applied = applied;
        applied["metadata"] = json!({"name": "a"});
        // structured-merge-diff gives nobody an empty list that has identifiable items.
        applied.as_object_mut().unwrap().retain(|_, field| *field != json!([]));
        let base = json!({"metadata": {"name": "a"}});
        let live = apply(&schema, None, &applied, &manager("me"), false).unwrap();
        let rest = apply(&schema, Some(&live), &base, &manager("me"), false).unwrap();
        prop_assert_eq!(rest, base);
    }
}

fn nested(depth: usize) -> Value {
    // Not with `json!`, which copies what it is given.
    (0..depth).fold(json!("x"), |inner, _| Value::Object(Map::from_iter([("d".to_owned(), inner)])))
}

/// `serde_json` parses 128 levels and cannot even copy or free a few thousand on the stack of a server's thread, so
/// that is what an object can have; what refuses depth is shown ten thousand levels.
#[test]
fn depth_overflows_no_stack() {
    let (deep, other) = (nested(1000), json!({"d": {"d": {"d": 1}}}));
    let schema = schema();
    for (live, applied) in [(&other, &deep), (&deep, &other), (&deep, &deep)] {
        let object = apply(&schema, Some(live), applied, &manager("me"), true).unwrap();
        let mut new = object.clone();
        track_update(&schema, Some(live), &mut new, &manager("you"));
        let owners = new["metadata"]["managedFields"].to_string();
        assert!(serde_json::from_str::<Value>(&owners).is_ok(), "managedFields stay readable");
    }
    let mut pruned = deep.clone();
    schema.prune(&mut pruned);
    schema.apply_defaults(&mut pruned);
    assert!(schema.validate(&pruned, Some(&other)).is_empty());
}

#[test]
fn hostile_depth_is_refused() {
    let check = || {
        let deep = nested(10_000);
        assert!(crate::apimachinery::strategic_merge_patch(&mut json!({}), &deep).is_err());
        assert!(
            crate::apimachinery::json_patch(
                &mut json!({}),
                &json!([{"op": "add", "path": "/d", "value": deep}])
            )
            .is_err()
        );
        assert!(Schema::compile(&deep).is_err());
        let mut target = json!({"d": {"e": 1}});
        crate::apimachinery::merge_patch(&mut target, &deep);
        assert_eq!(target["d"]["e"], 1);
    };
    std::thread::Builder::new().stack_size(64 << 20).spawn(check).unwrap().join().unwrap();
}
