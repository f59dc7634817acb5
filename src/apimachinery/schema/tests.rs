//! The schema of a virtual image, reduced, and what the API server says to objects that break it.

use serde_json::{Value, json};

use super::*;

fn image_schema() -> Schema {
    let source_rules = json!([
        {"rule": "self.type == 'HTTP' ? has(self.http) && !has(self.containerImage) && !has(self.objectRef) && \
                  !has(self.upload) : true",
         "message": "HTTP requires http and cannot have ContainerImage, ObjectRef or Upload."},
    ]);
    Schema::compile(&json!({
        "type": "object",
        "required": ["spec"],
        "x-kubernetes-validations": [
            {"rule": "self.metadata.name.size() <= 49", "message": "must be no longer than 49 characters."},
        ],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["dataSource"],
                "properties": {
                    "storage": {"type": "string", "enum": ["ContainerRegistry", "PVC"], "default": "ContainerRegistry"},
                    "dataSource": {
                        "type": "object",
                        "required": ["type"],
                        "x-kubernetes-validations": source_rules,
                        "properties": {
                            "type": {"type": "string", "enum": ["HTTP", "ObjectRef", "Upload"]},
                            "http": {
                                "type": "object",
                                "required": ["url"],
                                "properties": {"url": {
                                    "type": "string", "pattern": "^https?://.+", "maxLength": 30,
                                }},
                            },
                            "upload": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                            "containerImage": {"type": "object", "properties": {}},
                            "objectRef": {
                                "type": "object",
                                "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}},
                                "x-kubernetes-validations": [{
                                    "rule": "has(self.__namespace__) && size(self.__namespace__) > 0",
                                    "message": "The namespace is required.",
                                    "reason": "FieldValueRequired", "fieldPath": ".namespace",
                                }],
                            },
                        },
                    },
                    "replicas": {"type": "integer", "minimum": 1, "maximum": 5},
                    "note": {"type": "string", "nullable": true, "default": "x"},
                    "port": {"x-kubernetes-int-or-string": true},
                    "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 2},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "status": {
                "type": "object",
                "properties": {
                    "phase": {"type": "string"},
                    "conditions": {
                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                        "items": {"type": "object", "required": ["type"], "properties": {
                            "type": {"type": "string"}, "status": {"type": "string"},
                            "since": {"type": "string", "format": "date-time"},
                        }},
                    },
                },
            },
        },
    }))
    .unwrap()
}

fn image(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "VirtualImage", "metadata": {"name": "a"}, "spec": spec})
}

fn upload() -> Value {
    image(&json!({"dataSource": {"type": "Upload"}}))
}

fn complaints(spec: &Value) -> Vec<String> {
    image_schema().validate(&image(spec), None).iter().map(ToString::to_string).collect()
}

const SKIPPED: &str = "<nil>: Invalid value: null: some validation rules were not checked because the object was \
                       invalid; correct the existing errors to complete validation";

#[test]
fn a_good_object_has_no_causes() {
    let spec = json!({"dataSource": {"type": "HTTP", "http": {"url": "https://a/b.img"}}, "port": 80, "replicas": 5.0,
                      "note": null, "tags": ["a", "b"], "labels": {"a": "b"}});
    assert_eq!(complaints(&spec), Vec::<String>::new());
}

#[test]
fn violations_are_in_the_api_servers_words() {
    for (spec, complaint) in [
        (json!({}), "spec.dataSource: Required value"),
        (
            json!({"dataSource": {"type": "FTP"}}),
            r#"spec.dataSource.type: Unsupported value: "FTP": supported values: "HTTP", "ObjectRef", "Upload""#,
        ),
        (
            json!({"dataSource": {"type": "Upload"}, "replicas": "two"}),
            r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#,
        ),
        (
            json!({"dataSource": {"type": "Upload"}, "replicas": 1.5}),
            r#"spec.replicas: Invalid value: "number": spec.replicas in body must be of type integer: "number""#,
        ),
        (
            json!({"dataSource": {"type": "Upload"}, "port": true}),
            r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"dataSource": {"type": "Upload", "http": {"url": "https://example.com/a/very/long/path"}}}),
            "spec.dataSource.http.url: Too long: may not be more than 30 bytes",
        ),
        (
            json!({"dataSource": {"type": "Upload"}, "tags": ["a", "b", "c"]}),
            "spec.tags: Too many: 3: must have at most 2 items",
        ),
        (
            json!({"dataSource": {"type": "Upload"}, "labels": {"a": 1}}),
            r#"spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer""#,
        ),
    ] {
        assert_eq!(complaints(&spec), [complaint, SKIPPED], "{spec}");
    }
    // These do not keep the rules from running.
    for (spec, complaint) in [
        (
            json!({"dataSource": {"type": "Upload"}, "replicas": 0}),
            "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1",
        ),
        (
            json!({"dataSource": {"type": "Upload", "http": {"url": "ftp://a"}}}),
            r#"spec.dataSource.http.url: Invalid value: "ftp://a": spec.dataSource.http.url in body should match '^https?://.+'"#,
        ),
        (
            json!({"dataSource": {"type": "Upload"}, "tags": ["a", "a"]}),
            r#"spec.tags[1]: Duplicate value: "a""#,
        ),
    ] {
        assert_eq!(complaints(&spec), [complaint], "{spec}");
    }
}

#[test]
fn formats_and_list_maps_are_checked() {
    let mut object = upload();
    object["status"] = json!({"conditions": [{"type": "Ready", "since": "now"}, {"type": "Ready"}]});
    let causes = image_schema().validate(&object, None);
    assert_eq!(
        causes[0].to_string(),
        r#"status.conditions[0].since: Invalid value: "now": status.conditions[0].since in body must be of type date-time: "now""#
    );
    assert_eq!(causes[0].reason, CauseReason::FieldValueTypeInvalid);
    assert_eq!(causes[1].to_string(), r#"status.conditions[1]: Duplicate value: {"type":"Ready"}"#);
}

#[test]
fn a_failing_rule_names_its_node() {
    let spec = json!({"dataSource": {"type": "HTTP"}});
    let expected = r#"spec.dataSource: Invalid value: "object": HTTP requires http and cannot have ContainerImage, ObjectRef or Upload."#;
    assert_eq!(complaints(&spec), [expected]);
}

#[test]
fn a_rule_on_an_escaped_property_reports_its_field_path_and_reason() {
    let spec = json!({"dataSource": {"type": "ObjectRef", "objectRef": {"name": "x", "namespace": ""}}});
    let causes = image_schema().validate(&image(&spec), None);
    assert_eq!(causes.len(), 1);
    assert_eq!(
        causes[0].to_string(),
        "spec.dataSource.objectRef.namespace: Required value: The namespace is required."
    );
    let spec = json!({"dataSource": {"type": "ObjectRef", "objectRef": {"name": "x", "namespace": "y"}}});
    assert!(complaints(&spec).is_empty());
}

#[test]
fn a_rule_at_the_root_sees_the_name() {
    let mut object = upload();
    object["metadata"]["name"] = "x".repeat(50).into();
    let causes = image_schema().validate(&object, None);
    assert_eq!(
        causes[0].to_string(),
        r#"<nil>: Invalid value: "object": must be no longer than 49 characters."#
    );
}

fn rule_schema(rules: &Value) -> Schema {
    Schema::compile(&json!({
        "type": "object",
        "x-kubernetes-validations": rules,
        "properties": {
            "spec": {"type": "object", "properties": {
                "dataSource": {"type": "object", "properties": {"type": {"type": "string"}}},
                "size": {"type": "integer"},
                "names": {"type": "array", "items": {"type": "string"}},
            }},
            "status": {"type": "object", "properties": {
                "phase": {"type": "string"},
                "conditions": {"type": "array", "items": {"type": "object", "properties": {
                    "type": {"type": "string"}, "status": {"type": "string"},
                }}},
            }},
        },
    }))
    .unwrap()
}

fn fails(rule: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let causes = rule_schema(&json!([{"rule": rule, "message": "no"}])).validate(object, old);
    causes.into_iter().map(|cause| cause.message).collect()
}

#[test]
fn transition_rules_run_on_updates_only() {
    let immutable = "self.spec == oldSelf.spec";
    let (small, large) = (json!({"spec": {"size": 1}}), json!({"spec": {"size": 2}}));
    assert!(fails(immutable, &large, None).is_empty());
    assert!(fails(immutable, &small, Some(&small)).is_empty());
    assert_eq!(fails(immutable, &large, Some(&small)), ["Invalid value: \"object\": no"]);
}

#[test]
fn the_data_source_of_a_ready_image_cannot_change() {
    let rule = "!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ready','ImageLost']) \
                || self.spec.dataSource == oldSelf.spec.dataSource";
    let old = |phase: &str| json!({"spec": {"dataSource": {"type": "HTTP"}}, "status": {"phase": phase}});
    let new = json!({"spec": {"dataSource": {"type": "Upload"}}, "status": {"phase": "Ready"}});
    assert_eq!(fails(rule, &new, Some(&old("Ready"))).len(), 1);
    assert_eq!(fails(rule, &new, Some(&old("Pending"))).len(), 0);
    assert_eq!(fails(rule, &new, Some(&json!({"spec": {"dataSource": {"type": "HTTP"}}}))).len(), 0);
}

#[test]
fn comprehensions_and_string_functions_work() {
    let ready = "oldSelf.status.conditions.exists(c, c.type == 'Ready' && c.status == 'True')";
    let old = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    assert!(fails(ready, &json!({}), Some(&old("True"))).is_empty());
    assert_eq!(fails(ready, &json!({}), Some(&old("False"))).len(), 1);
    let names = json!({"spec": {"names": ["a-1", "a-2"]}});
    for rule in [
        "self.spec.names.all(n, n.startsWith('a-'))",
        "self.spec.names.map(n, n.substring(2)).join(',') == '1,2'",
        "self.spec.names.exists_one(n, n.matches('^a-1$'))",
        "self.spec.names.filter(n, n.endsWith('1')).size() == 1",
        "self.spec.?size.orValue(3) == 3",
    ] {
        assert_eq!(fails(rule, &names, None), Vec::<String>::new(), "{rule}");
    }
}

#[test]
fn a_rule_that_errors_is_a_violation_with_the_error() {
    let object = json!({"spec": {"names": []}});
    let shown = |rule: &str| {
        rule_schema(&json!([{"rule": rule}]))
            .validate(&object, None)
            .pop()
            .map(|cause| cause.message)
            .unwrap()
    };
    assert_eq!(
        shown("self.spec.size > 1"),
        "Invalid value: \"object\": no such key: size evaluating rule: self.spec.size > 1"
    );
    assert!(shown("self.spec.names[0] == 'a'").contains("index out of bounds: 0 evaluating rule"));
    assert!(shown("1 / 0 == 1").contains("division by zero"));
    assert!(shown("self.spec.names > 1").contains("did not match a supported operator"));
    assert_eq!(
        fails("self.spec.size > 1", &object, None),
        ["Invalid value: \"object\": no such key: size evaluating rule: no"]
    );
}

#[test]
fn messages_come_from_the_message_expression_or_the_rule() {
    let object = json!({"spec": {"size": 7}});
    let shown = |rule: Value| rule_schema(&json!([rule])).validate(&object, None).pop().unwrap().message;
    let expression =
        json!({"rule": "self.spec.size < 5", "messageExpression": "'size is ' + string(self.spec.size)"});
    assert_eq!(shown(expression), "Invalid value: \"object\": size is 7");
    let broken = json!({"rule": "self.spec.size < 5", "message": "m", "messageExpression": "self.spec.gone"});
    assert_eq!(shown(broken), "Invalid value: \"object\": m");
    assert_eq!(
        shown(json!({"rule": "self.spec.size < 5"})),
        "Invalid value: \"object\": failed rule: self.spec.size < 5"
    );
    let forbidden =
        json!({"rule": "false", "message": "m", "reason": "FieldValueForbidden", "fieldPath": ".spec.size"});
    assert_eq!(shown(forbidden), "Forbidden: m");
}

#[test]
fn an_optional_old_self_lets_a_rule_run_on_create() {
    let rules = json!([{"rule": "oldSelf.hasValue() || self.spec.size == 1", "optionalOldSelf": true}]);
    let schema = rule_schema(&rules);
    let (one, two) = (json!({"spec": {"size": 1}}), json!({"spec": {"size": 2}}));
    assert!(schema.validate(&one, None).is_empty());
    assert_eq!(schema.validate(&two, None).len(), 1);
    assert!(schema.validate(&two, Some(&one)).is_empty());
}

#[test]
fn what_was_wrong_before_and_has_not_changed_is_tolerated() {
    let mut old = image(&json!({"dataSource": {"type": "HTTP"}, "replicas": 9, "storage": "Tape"}));
    let mut new = old.clone();
    new["spec"]["labels"] = json!({"a": "b"});
    assert_eq!(image_schema().validate(&new, Some(&old)), []);
    new["spec"]["replicas"] = 8.into();
    assert_eq!(image_schema().validate(&new, Some(&old)).len(), 1);
    old["spec"]["dataSource"] = json!({"type": "Upload"});
    assert_eq!(image_schema().validate(&new, Some(&old)).len(), 2);
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let mut object = json!({
        "apiVersion": "v1", "kind": "K", "extra": 1,
        "metadata": {"name": "a", "labels": {"a": "b"}, "nonsense": 1, "managedFields": [{"fieldsV1": {"f:x": {}}}]},
        "spec": {"dataSource": {"type": "HTTP", "httpp": {}, "upload": {"any": 1}}, "labels": {"a": "b"}},
        "status": {"conditions": [{"type": "Ready", "colour": "red"}]},
    });
    let mut removed = image_schema().prune(&mut object);
    removed.sort();
    assert_eq!(
        removed,
        ["extra", "metadata.nonsense", "spec.dataSource.httpp", "status.conditions[0].colour"]
    );
    assert_eq!(object["metadata"]["managedFields"], json!([{"fieldsV1": {"f:x": {}}}]));
    assert_eq!(object["spec"]["dataSource"], json!({"type": "HTTP", "upload": {"any": 1}}));
    assert!(image_schema().prune(&mut object).is_empty());
}

#[test]
fn defaults_fill_absent_fields_and_disallowed_nulls() {
    let mut object =
        image(&json!({"dataSource": {"type": "Upload", "http": null}, "storage": null, "note": null}));
    image_schema().apply_defaults(&mut object);
    assert_eq!(
        object["spec"],
        json!({"dataSource": {"type": "Upload"}, "storage": "ContainerRegistry", "note": null})
    );
    let mut object = upload();
    image_schema().apply_defaults(&mut object);
    assert_eq!(object["spec"]["note"], "x");
    let mut object = json!({"metadata": {"name": "a"}});
    image_schema().apply_defaults(&mut object);
    assert_eq!(object, json!({"metadata": {"name": "a"}}), "a default does not create its parent");
}

#[test]
fn alternatives_are_counted() {
    let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "not": {"required": ["c"]},
    }}}))
    .unwrap();
    let messages = |spec: Value| -> Vec<_> {
        schema.validate(&json!({"spec": spec}), None).into_iter().map(|cause| cause.message).collect()
    };
    assert!(messages(json!({"a": "1"})).is_empty());
    assert_eq!(
        messages(json!({"a": "1", "b": "1"})),
        [
            r#"Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]
    );
    assert!(
        messages(json!({})).contains(
            &r#"Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid"#
                .to_owned()
        )
    );
    assert_eq!(
        messages(json!({"a": "1", "c": "1"})),
        [r#"Invalid value: "": "spec" must not validate the schema (not)"#]
    );
}

#[test]
fn a_schema_that_cannot_be_enforced_is_refused_with_its_place() {
    for (property, place) in [
        (json!({"type": "text"}), "properties.a.type"),
        (json!({}), "properties.a.type"),
        (json!({"type": "array"}), "properties.a.items"),
        (json!({"type": "string", "pattern": "("}), "properties.a.pattern"),
        (json!({"type": "string", "$ref": "#/x"}), "properties.a.$ref"),
        (json!({"type": "integer", "minimum": "1"}), "properties.a.minimum"),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "self =="}]}),
            "properties.a.x-kubernetes-validations.0",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "isURL(self)"}]}),
            "properties.a.x-kubernetes-validations.0",
        ),
    ] {
        let error = Schema::compile(&json!({"type": "object", "properties": {"a": property}})).unwrap_err();
        assert_eq!(error.path, place, "{error}");
    }
    assert!(Schema::compile(&json!({"type": "string"})).is_err());
}

#[test]
fn transition_rules_follow_the_items_of_list_maps_only() {
    let list = |kind: &str| {
        let mut list = json!({
            "type": "array", "x-kubernetes-list-type": kind,
            "items": {
                "type": "object",
                "x-kubernetes-validations": [{"rule": "self.value == oldSelf.value", "message": "is immutable"}],
                "properties": {"name": {"type": "string"}, "value": {"type": "integer"}},
            },
        });
        if kind == "map" {
            list["x-kubernetes-list-map-keys"] = json!(["name"]);
        }
        Schema::compile(&json!({"type": "object", "properties": {"list": list}})).unwrap()
    };
    let old = json!({"list": [{"name": "a", "value": 1}, {"name": "b", "value": 2}]});
    let new =
        json!({"list": [{"name": "b", "value": 3}, {"name": "a", "value": 1}, {"name": "c", "value": 9}]});
    let causes = list("map").validate(&new, Some(&old));
    assert_eq!(
        causes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [r#"list[0]: Invalid value: "object": is immutable"#]
    );
    assert_eq!(list("atomic").validate(&new, Some(&old)), []);
}

#[test]
fn a_schema_is_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    shared(&image_schema());
}

#[test]
fn rules_compare_quantities_as_amounts_and_not_as_texts() {
    let schema = Schema::compile(&json!({"type": "object", "properties": {"a": {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": [
            {"rule": "quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0", "message": "cannot shrink"},
            {"rule": "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('1Ki'))"},
        ],
    }}}))
    .unwrap();
    let object = |a: Value| json!({"a": a});
    assert!(schema.validate(&object(json!("10Gi")), Some(&object(json!("9Gi")))).is_empty());
    assert!(schema.validate(&object(json!("1Gi")), Some(&object(json!(1_073_741_824)))).is_empty());
    let causes = schema.validate(&object(json!("9Gi")), Some(&object(json!("10Gi"))));
    assert!(causes.iter().any(|cause| cause.to_string().contains("cannot shrink")), "{causes:?}");
    assert_eq!(schema.validate(&object(json!("1Ki")), None).len(), 1);
    assert_eq!(schema.validate(&object(json!("much")), None).len(), 1);
}
