//! `OpenAPI` v3: what `kubectl explain` reads, and how kubectl learns that the server validates fields itself.

mod meta;

use std::fmt;

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::resource::{Resource, group_version};
use super::scheme::Scheme;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// `OpenAPI` v2, which clients of today ask for only when v3 does not know a kind, such as `List`: a document that
/// describes nothing, so that nothing is checked by the client. The server checks everything anyway.
///
/// The clients in question read protobuf and nothing else; its field 1 is the version.
pub(super) fn second_version() -> Response {
    let document = [b"\x0a\x03".as_slice(), b"2.0"].concat();
    let kind = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    ([(CONTENT_TYPE, kind)], document).into_response()
}

/// The documents there are. Their addresses change with their content, so that they can be cached for ever.
pub(super) fn index(scheme: &Scheme) -> Value {
    let mut paths = Map::new();
    for group in std::iter::once("").chain(scheme.groups()) {
        for version in scheme.versions(group) {
            let path = base_path(group, version);
            let hash = Sha256::digest(document(scheme, group, version).to_string());
            let url = format!("/openapi/v3{path}?hash={:X}", Hex(&hash));
            paths.insert(path.trim_start_matches('/').to_owned(), json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// The document of one version of a group.
pub(super) fn document(scheme: &Scheme, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = meta::schemas();
    for resource in scheme.version(group, version) {
        add_paths(&mut paths, resource);
        let name = schema_name(resource, &resource.kind);
        schemas.insert(schema_name(resource, &resource.list_kind), list_schema(resource, &name));
        schemas.insert(name, object_schema(resource));
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.34.0" },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// Bytes in hexadecimal.
struct Hex<'a>(&'a [u8]);

impl fmt::UpperHex for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

fn base_path(group: &str, version: &str) -> String {
    let api = if group.is_empty() { "api" } else { "apis" };
    format!("/{api}/{}", group_version(group, version))
}

/// As kube-apiserver names them: the group's parts backwards.
fn schema_name(resource: &Resource, kind: &str) -> String {
    let package = match resource.group.as_str() {
        "" => "io.k8s.api.core".to_owned(),
        "events.k8s.io" => "io.k8s.api.events".to_owned(),
        group => group.rsplit('.').collect::<Vec<_>>().join("."),
    };
    format!("{package}.{}.{kind}", resource.version)
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn kinds(resource: &Resource, kind: &str) -> Value {
    json!([{ "group": resource.group, "version": resource.version, "kind": kind }])
}

fn type_fields(metadata: &str) -> Value {
    json!({
        "apiVersion": {
            "type": "string",
            "description": "The versioned schema of this representation of an object, as group/version.",
        },
        "kind": { "type": "string", "description": "The kind of the object, in CamelCase. Cannot be updated." },
        "metadata": {
            "allOf": [reference(metadata)],
            "default": {},
            "description": "What all objects have: name, labels, owners and the like.",
        },
    })
}

fn object_schema(resource: &Resource) -> Value {
    let mut schema = resource.open_api.clone();
    if let (Some(schema), Some(fields)) = (schema.as_object_mut(), type_fields(OBJECT_META).as_object_mut()) {
        schema.insert("x-kubernetes-group-version-kind".into(), kinds(resource, &resource.kind));
        let properties = schema.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.append(fields);
        }
    }
    schema
}

fn list_schema(resource: &Resource, item: &str) -> Value {
    let mut properties = type_fields(LIST_META);
    properties["items"] = json!({
        "type": "array",
        "description": format!("The {}.", resource.plural),
        "items": { "allOf": [reference(item)], "default": {} },
    });
    json!({
        "type": "object",
        "description": format!("{} is a list of {}.", resource.list_kind, resource.plural),
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": kinds(resource, &resource.list_kind),
    })
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let base = base_path(&resource.group, &resource.version);
    let plural = &resource.plural;
    let collection = if resource.namespaced {
        let all = json!({ "get": operation(resource, "list", &LIST) });
        paths.insert(format!("{base}/{plural}"), all);
        format!("{base}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{base}/{plural}")
    };
    let in_path = |names: &[&str]| -> Vec<Value> {
        let names = names.iter().filter(|&&name| resource.namespaced || name != "namespace");
        names.map(|name| parameter("path", name)).collect()
    };
    let mut change = json!({
        "parameters": in_path(&["name", "namespace"]),
        "get": operation(resource, "get", &[]),
        "put": operation(resource, "put", &WRITE),
        "patch": operation(resource, "patch", &PATCH),
    });
    if resource.has_status {
        paths.insert(format!("{collection}/{{name}}/status"), change.clone());
    }
    change["delete"] = operation(resource, "delete", &DELETE);
    paths.insert(format!("{collection}/{{name}}"), change);
    let whole = json!({
        "parameters": in_path(&["namespace"]),
        "get": operation(resource, "list", &LIST),
        "post": operation(resource, "post", &WRITE),
        "delete": operation(resource, "deletecollection", &DELETE),
    });
    paths.insert(collection, whole);
}

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: [&str; 3] = ["dryRun", "gracePeriodSeconds", "propagationPolicy"];
const LIST: [&str; 9] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "watch",
];

/// kubectl looks here for the parameters `dryRun` and `fieldValidation` of the patch of a kind.
fn operation(resource: &Resource, action: &str, parameters: &[&str]) -> Value {
    let schema = match action {
        "list" | "deletecollection" => schema_name(resource, &resource.list_kind),
        _ => schema_name(resource, &resource.kind),
    };
    let content = json!({ "application/json": { "schema": reference(&schema) } });
    let mut operation = json!({
        "parameters": parameters.iter().map(|name| parameter("query", name)).collect::<Vec<_>>(),
        "responses": { "200": { "description": "OK", "content": content } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kinds(resource, &resource.kind).pointer("/0"),
    });
    if matches!(action, "post" | "put") {
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn parameter(place: &str, name: &str) -> Value {
    let kind = match name {
        "allowWatchBookmarks" | "force" | "sendInitialEvents" | "watch" => "boolean",
        "gracePeriodSeconds" | "limit" => "integer",
        _ => "string",
    };
    let mut parameter = json!({ "name": name, "in": place, "schema": { "type": kind, "uniqueItems": true } });
    if place == "path" {
        parameter["required"] = json!(true);
    }
    parameter
}
