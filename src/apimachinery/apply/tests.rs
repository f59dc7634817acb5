//! Ownership as users of kubectl and controllers see it.

use serde_json::{Value, json};

use super::*;

fn schema() -> Schema {
    let text = json!({"type": "string"});
    Schema::compile(&json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {
                "storage": text, "size": text,
                "list": {"type": "array", "items": text},
                "set": {"type": "array", "items": text, "x-kubernetes-list-type": "set"},
                "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": text},
                "map": {"type": "object", "additionalProperties": text},
                "source": {"type": "object", "properties": {"url": text, "name": text}},
            }},
            "status": {"type": "object", "properties": {
                "phase": text,
                "conditions": {
                    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                    "items": {"type": "object", "properties": {"type": text, "status": text}},
                },
            }},
        },
    }))
    .unwrap()
}

const API: &str = "virtualization.deckhouse.io/v1alpha2";

fn manager(name: &str) -> Manager<'_> {
    Manager { name, subresource: None, api_version: API, now: "2026-01-01T00:00:00Z" }
}

fn object(spec: &Value) -> Value {
    json!({"apiVersion": API, "kind": "VirtualImage", "metadata": {"name": "a"}, "spec": spec})
}

/// Creates as `kubectl create` would; the server has given a uid.
fn created(by: &str, spec: &Value) -> Value {
    let mut object = object(spec);
    object["metadata"]["uid"] = "1".into();
    track_update(&schema(), None, &mut object, &manager(by));
    object
}

fn applied(live: Option<&Value>, by: &str, spec: &Value) -> Result<Value, Vec<Conflict>> {
    apply(&schema(), live, &object(spec), &manager(by), false)
}

fn entry<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["metadata"]["managedFields"].as_array()?.iter().find(|entry| entry["manager"] == name)
}

fn fields(object: &Value, name: &str) -> Value {
    entry(object, name).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn a_creator_owns_what_it_has_set() {
    let mut object = object(&json!({"storage": "PVC", "map": {"a": "1"}}));
    object["metadata"]["labels"] = json!({"app": "x"});
    track_update(&schema(), None, &mut object, &manager("kubectl-create"));
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": API, "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {".": {}, "f:storage": {}, "f:map": {".": {}, "f:a": {}}},
            },
        }])
    );
}

#[test]
fn an_applier_owns_its_configuration() {
    let mut configuration =
        object(&json!({"storage": "PVC", "map": {"a": "1"}, "list": ["x"], "set": ["y"], "source": {}}));
    configuration["metadata"]["labels"] = json!({"app": "x"});
    configuration["metadata"]["finalizers"] = json!(["f"]);
    configuration["metadata"]["ownerReferences"] = json!([{"uid": "1", "name": "o"}]);
    let object = apply(&schema(), None, &configuration, &manager("me"), false).unwrap();
    assert_eq!(object["spec"], configuration["spec"]);
    assert_eq!(
        fields(&object, "me"),
        json!({
            "f:metadata": {
                "f:labels": {"f:app": {}},
                "f:finalizers": {"v:\"f\"": {}},
                "f:ownerReferences": {"k:{\"uid\":\"1\"}": {}},
            },
            "f:spec": {
                "f:storage": {}, "f:map": {"f:a": {}}, "f:list": {}, "f:set": {"v:\"y\"": {}}, "f:source": {},
            },
        })
    );
    assert_eq!(entry(&object, "me").unwrap()["operation"], "Apply");
}

#[test]
fn applying_again_changes_nothing_not_even_the_time() {
    let first = applied(None, "me", &json!({"storage": "PVC", "map": {"a": "1"}})).unwrap();
    let later = Manager { now: "2026-02-02T00:00:00Z", ..manager("me") };
    let again =
        apply(&schema(), Some(&first), &object(&json!({"storage": "PVC", "map": {"a": "1"}})), &later, false);
    assert_eq!(again.unwrap(), first);
    let changed = apply(&schema(), Some(&first), &object(&json!({"storage": "CR"})), &later, false).unwrap();
    assert_eq!(entry(&changed, "me").unwrap()["time"], "2026-02-02T00:00:00Z");
}

#[test]
fn a_field_no_longer_applied_is_removed_when_nobody_else_owns_it() {
    let first =
        applied(None, "me", &json!({"storage": "PVC", "size": "1", "map": {"a": "1", "b": "2"}})).unwrap();
    let second = applied(Some(&first), "me", &json!({"storage": "PVC", "map": {"b": "2"}})).unwrap();
    assert_eq!(second["spec"], json!({"storage": "PVC", "map": {"b": "2"}}));
    let third = applied(Some(&second), "me", &json!({"storage": "PVC"})).unwrap();
    assert_eq!(third["spec"], json!({"storage": "PVC"}));
}

#[test]
fn a_shared_field_stays_for_its_other_owner() {
    let first = applied(None, "me", &json!({"storage": "PVC", "size": "1"})).unwrap();
    let shared = applied(Some(&first), "you", &json!({"size": "1"})).unwrap();
    let left = applied(Some(&shared), "me", &json!({"storage": "PVC"})).unwrap();
    assert_eq!(left["spec"], json!({"storage": "PVC", "size": "1"}));
    assert_eq!(fields(&left, "me"), json!({"f:spec": {"f:storage": {}}}));
    assert_eq!(fields(&left, "you"), json!({"f:spec": {"f:size": {}}}));
}

#[test]
fn another_value_for_a_field_of_another_manager_is_a_conflict() {
    let live = created("kubectl-client-side-apply", &json!({"storage": "PVC"}));
    let conflicts = applied(Some(&live), "me", &json!({"storage": "CR"})).unwrap_err();
    assert_eq!(
        Conflict::summary(&conflicts),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using \
         virtualization.deckhouse.io/v1alpha2: .spec.storage"
    );
    assert_eq!(conflicts[0].field, ".spec.storage");
    assert_eq!(
        conflicts[0].cause_message(),
        format!("conflict with \"kubectl-client-side-apply\" using {API}")
    );

    let forced =
        apply(&schema(), Some(&live), &object(&json!({"storage": "CR"})), &manager("me"), true).unwrap();
    assert_eq!(forced["spec"]["storage"], "CR");
    assert_eq!(fields(&forced, "kubectl-client-side-apply"), json!({"f:spec": {}}));
    assert_eq!(fields(&forced, "me"), json!({"f:spec": {"f:storage": {}}}));
}

#[test]
fn several_conflicts_are_grouped_by_manager() {
    let first = applied(None, "a", &json!({"storage": "1"})).unwrap();
    let live = applied(Some(&first), "b", &json!({"size": "1", "list": ["1"]})).unwrap();
    let conflicts =
        applied(Some(&live), "me", &json!({"storage": "2", "size": "2", "list": ["2"]})).unwrap_err();
    assert_eq!(
        Conflict::summary(&conflicts),
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.storage\nconflicts with \"b\":\n- .spec.list\n\
         - .spec.size"
    );
}

#[test]
fn the_same_value_is_no_conflict_and_is_shared() {
    let live = created("kubectl-create", &json!({"storage": "PVC"}));
    let object = applied(Some(&live), "me", &json!({"storage": "PVC"})).unwrap();
    assert_eq!(fields(&object, "kubectl-create"), json!({"f:spec": {".": {}, "f:storage": {}}}));
    assert_eq!(fields(&object, "me"), json!({"f:spec": {"f:storage": {}}}));
}

#[test]
fn an_update_takes_what_it_changes_and_leaves_the_rest() {
    let mut live = applied(None, "me", &json!({"storage": "PVC", "size": "1"})).unwrap();
    live["metadata"]["uid"] = "1".into();
    let mut new = live.clone();
    new["spec"] = json!({"storage": "CR", "source": {"url": "u"}});
    track_update(&schema(), Some(&live), &mut new, &manager("editor"));
    assert_eq!(
        fields(&new, "editor"),
        json!({"f:spec": {"f:storage": {}, "f:source": {".": {}, "f:url": {}}}})
    );
    assert_eq!(entry(&new, "me"), None, "what it owned was changed or removed");
}

#[test]
fn an_update_that_changes_nothing_leaves_managed_fields_alone() {
    let live = created("kubectl-create", &json!({"storage": "PVC"}));
    let mut new = live.clone();
    let later = Manager { now: "2026-02-02T00:00:00Z", ..manager("kubectl-create") };
    track_update(&schema(), Some(&live), &mut new, &later);
    assert_eq!(new, live);
    // A client that does not know the field sends none.
    new["metadata"].as_object_mut().unwrap().remove("managedFields");
    track_update(&schema(), Some(&live), &mut new, &later);
    assert_eq!(new, live);
    new["metadata"]["managedFields"] = json!([]);
    track_update(&schema(), Some(&live), &mut new, &later);
    assert_eq!(new, live);
}

#[test]
fn an_empty_entry_resets_managed_fields() {
    let live = created("kubectl-create", &json!({"storage": "PVC"}));
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    track_update(&schema(), Some(&live), &mut new, &manager("me"));
    assert_eq!(new["metadata"].get("managedFields"), None);
    // A subresource cannot do that.
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    track_update(&schema(), Some(&live), &mut new, &Manager { subresource: Some("status"), ..manager("me") });
    assert_eq!(new, live);
}

#[test]
fn a_status_writer_is_its_own_owner() {
    let live = created("controller", &json!({"storage": "PVC"}));
    let mut new = live.clone();
    new["status"] = json!({"phase": "Ready", "conditions": [{"type": "Ready", "status": "True"}]});
    let status = Manager { subresource: Some("status"), ..manager("controller") };
    track_update(&schema(), Some(&live), &mut new, &status);
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(
        entries[1]["fieldsV1"],
        json!({"f:status": {
            ".": {}, "f:phase": {},
            "f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:type": {}, "f:status": {}}},
        }})
    );
    let conflicts =
        apply(&schema(), Some(&new), &json!({"status": {"phase": "Lost"}}), &status, false).unwrap_err();
    assert!(Conflict::summary(&conflicts).contains("\"controller\" with subresource \"status\" using"));
}

#[test]
fn list_items_are_merged_by_key_and_sets_by_value() {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let live = apply(
        &schema(),
        None,
        &json!({"status": {"conditions": [condition("A", "1"), condition("B", "1")]}, "spec": {"set": ["x", "y"]}}),
        &manager("me"),
        false,
    )
    .unwrap();
    let configuration = json!({"status": {"conditions": [condition("C", "2")]}, "spec": {"set": ["z", "y"]}});
    let both = apply(&schema(), Some(&live), &configuration, &manager("you"), false).unwrap();
    assert_eq!(
        both["status"]["conditions"],
        json!([condition("A", "1"), condition("B", "1"), condition("C", "2")])
    );
    assert_eq!(both["spec"]["set"], json!(["x", "z", "y"]));
    let without = json!({"status": {"conditions": [condition("B", "1")]}, "spec": {"set": ["y"]}});
    let left = apply(&schema(), Some(&both), &without, &manager("me"), false).unwrap();
    assert_eq!(left["status"]["conditions"], json!([condition("B", "1"), condition("C", "2")]));
    assert_eq!(left["spec"]["set"], json!(["z", "y"]));
}

#[test]
fn atomic_lists_and_maps_are_replaced_whole() {
    let live = applied(None, "me", &json!({"list": ["a", "b"], "atomic": {"a": "1", "b": "2"}})).unwrap();
    let next = applied(Some(&live), "me", &json!({"list": ["c"], "atomic": {"c": "3"}})).unwrap();
    assert_eq!(next["spec"], json!({"list": ["c"], "atomic": {"c": "3"}}));
    let conflicts = applied(Some(&next), "you", &json!({"list": ["d"], "atomic": {"c": "3"}})).unwrap_err();
    assert_eq!(conflicts.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), [".spec.list"]);
}

#[test]
fn labels_of_different_managers_live_side_by_side() {
    let labelled = |labels: Value| json!({"metadata": {"name": "a", "labels": labels}});
    let one = apply(&schema(), None, &labelled(json!({"a": "1"})), &manager("one"), false).unwrap();
    let two = apply(&schema(), Some(&one), &labelled(json!({"b": "2"})), &manager("two"), false).unwrap();
    assert_eq!(two["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    let gone =
        apply(&schema(), Some(&two), &json!({"metadata": {"name": "a"}}), &manager("one"), false).unwrap();
    assert_eq!(gone["metadata"]["labels"], json!({"b": "2"}));
    let conflicts =
        apply(&schema(), Some(&two), &labelled(json!({"a": "3"})), &manager("two"), false).unwrap_err();
    assert_eq!(
        Conflict::summary(&conflicts),
        "Apply failed with 1 conflict: conflict with \"one\": .metadata.labels.a"
    );
}

#[test]
fn a_live_object_without_owners_gets_one_before_the_first_apply() {
    let live = object(&json!({"storage": "PVC"}));
    let next = applied(Some(&live), "me", &json!({"size": "1"})).unwrap();
    assert_eq!(fields(&next, "before-first-apply"), json!({"f:spec": {".": {}, "f:storage": {}}}));
    assert!(applied(Some(&live), "me", &json!({"storage": "CR"})).is_err());
}

#[test]
fn kubectl_turns_to_server_side_apply_without_conflict() {
    let annotated = |storage: &str, size: &str| {
        let last = object(&json!({"storage": storage, "size": "1"})).to_string();
        let mut live = object(&json!({"storage": "PVC", "size": size}));
        live["metadata"]["uid"] = "1".into();
        live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
        track_update(&schema(), None, &mut live, &manager("kubectl-client-side-apply"));
        live
    };
    let configuration = json!({"storage": "CR", "size": "1"});
    let next = applied(Some(&annotated("PVC", "1")), "kubectl", &configuration).unwrap();
    assert_eq!(next["spec"], configuration);
    let annotation = &next["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(annotation.as_str().unwrap().contains("\"storage\":\"CR\""));
    // Somebody else has changed the size since: that is a conflict still.
    let conflicts = applied(Some(&annotated("PVC", "9")), "kubectl", &configuration).unwrap_err();
    assert_eq!(conflicts.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), [".spec.size"]);
}

#[test]
fn the_oldest_updaters_are_merged_beyond_ten() {
    let mut live = created("m00", &json!({"map": {"k00": "v"}}));
    for n in 1..15 {
        let mut new = live.clone();
        new["spec"]["map"][format!("k{n:02}")] = "v".into();
        let (name, now) = (format!("m{n:02}"), format!("2026-01-01T00:{n:02}:00Z"));
        track_update(&schema(), Some(&live), &mut new, &Manager { now: &now, ..manager(&name) });
        live = new;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(entries[0]["time"], "2026-01-01T00:05:00Z");
    assert!(entries[0]["fieldsV1"]["f:spec"]["f:map"].get("f:k00").is_some());
    assert_eq!(entries[9]["manager"], "m14");
}

#[test]
fn a_value_that_changes_its_shape_is_tracked() {
    let live = json!({"metadata": {"uid": "1"}, "other": {"a": 1}});
    for other in [json!([1]), json!("x"), json!(null), json!({})] {
        let mut old = live.clone();
        track_update(&schema(), None, &mut old, &manager("one"));
        let mut new = old.clone();
        new["other"] = other;
        track_update(&schema(), Some(&old), &mut new, &manager("two"));
        assert_eq!(
            entry(&new, "one").is_some(),
            new["other"] == json!(null) || new["other"] == json!({}),
            "{new}"
        );
    }
}
