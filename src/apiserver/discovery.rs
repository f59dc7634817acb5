//! What there is: versions, groups, resources and their verbs.

use std::sync::Arc;

use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde_json::{Value, json};

use super::incoming::Warnings;
use super::negotiate::{self, Discovery};
use super::openapi;
use super::resource::{Resource, group_version};
use super::route::Route;
use super::router::{Call, answer};
use super::scheme::Scheme;
use super::status::ApiError;

/// The version of Kubernetes whose behaviour is followed. kubectl supports servers within one minor version.
const MAJOR: &str = "1";
const MINOR: &str = "34";
const GIT_VERSION: &str = "v1.34.0";

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// Answers whatever is not about objects.
pub(super) fn describe(call: &Call<'_>, route: &Route) -> Result<Response, ApiError> {
    let (scheme, headers) = (&call.server.inner.scheme, &call.parts.headers);
    if matches!(route, Route::CoreVersions | Route::Groups)
        && let Discovery::Aggregated(version) = negotiate::discovery(headers)?
    {
        return Ok(aggregated(scheme, matches!(route, Route::CoreVersions), version));
    }
    if matches!(route, Route::OpenApiV2) {
        return Ok(openapi::second_version());
    }
    negotiate::plain(headers)?;
    let body = match route {
        Route::Version => version(),
        Route::CoreVersions => json!({
            "kind": "APIVersions",
            "versions": scheme.versions(""),
            "serverAddressByClientCIDRs": [],
        }),
        Route::Groups => {
            let groups: Vec<Value> = scheme.groups().iter().map(|name| group(scheme, name)).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        Route::Group(name) if scheme.groups().contains(&name.as_str()) => {
            let mut group = group(scheme, name);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }
        Route::Resources { group, version } if scheme.version(group, version).next().is_some() => {
            let resources: Vec<Value> = scheme.version(group, version).flat_map(legacy).collect();
            json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": group_version(group, version),
                "resources": resources,
            })
        }
        Route::OpenApi => openapi::index(scheme),
        Route::OpenApiOf { group, version } if scheme.version(group, version).next().is_some() => {
            openapi::document(scheme, group, version)
        }
        _ => return Err(ApiError::no_such_endpoint()),
    };
    Ok(answer(StatusCode::OK, &body, &Warnings::default()))
}

fn version() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn group(scheme: &Scheme, name: &str) -> Value {
    let versions: Vec<Value> = scheme
        .versions(name)
        .iter()
        .map(|version| json!({ "groupVersion": group_version(name, version), "version": version }))
        .collect();
    json!({ "name": name, "preferredVersion": versions.first(), "versions": versions })
}

/// A resource and its subresource, as `/apis/<group>/<version>` lists them.
fn legacy(resource: &Arc<Resource>) -> Vec<Value> {
    let entry = |name: String, singular: &str, verbs: &[&str]| {
        json!({
            "name": name,
            "singularName": singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs,
        })
    };
    let mut whole = entry(resource.plural.clone(), &resource.singular, &VERBS);
    if !resource.short_names.is_empty() {
        whole["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        whole["categories"] = json!(resource.categories);
    }
    let status = resource.has_status.then(|| entry(format!("{}/status", resource.plural), "", &STATUS_VERBS));
    std::iter::once(whole).chain(status).collect()
}

/// Everything in one answer.
fn aggregated(scheme: &Scheme, core: bool, version: &str) -> Response {
    let groups = if core { vec![""] } else { scheme.groups() };
    let items: Vec<Value> = groups.iter().map(|group| aggregated_group(scheme, group)).collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let mut response = answer(StatusCode::OK, &body, &Warnings::default());
    let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(media_type) = HeaderValue::from_str(&media_type) {
        response.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    response
}

fn aggregated_group(scheme: &Scheme, group: &str) -> Value {
    let versions: Vec<Value> = scheme
        .versions(group)
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                scheme.version(group, version).map(|resource| aggregated_resource(resource)).collect();
            json!({ "version": version, "resources": resources, "freshness": "Current" })
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
    json!({ "metadata": metadata, "versions": versions })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = json!({ "group": resource.group, "version": resource.version, "kind": resource.kind });
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": VERBS,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if resource.has_status {
        entry["subresources"] =
            json!([{ "subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS }]);
    }
    entry
}
