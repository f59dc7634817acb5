//! From a path to what it means.

use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::resource::Resource;
use super::scheme::Scheme;

#[derive(Debug)]
pub(super) enum Route {
    /// `/version`
    Version,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    Resources { group: String, version: String },
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApi,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`
    OpenApiOf { group: String, version: String },
    /// All objects of a resource, or those in one namespace.
    Collection { resource: Arc<Resource>, namespace: String },
    /// One object, or its status.
    Object { resource: Arc<Resource>, namespace: String, name: String, status: bool },
}

/// `None` when the path means nothing. A slash at the end makes no difference.
pub(super) fn parse(path: &str, scheme: &Scheme) -> Option<Route> {
    let decoded: Vec<_> = path
        .trim_matches('/')
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8())
        .collect::<Result<_, _>>()
        .ok()?;
    let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
    // A slash that was encoded would become one in a key of the store.
    if segments.iter().any(|segment| segment.is_empty() || segment.contains('/')) {
        return None;
    }
    match segments.as_slice() {
        ["version"] => Some(Route::Version),
        ["api"] => Some(Route::CoreVersions),
        ["apis"] => Some(Route::Groups),
        ["apis", group] => Some(Route::Group((*group).to_owned())),
        ["openapi", "v2"] => Some(Route::OpenApiV2),
        ["openapi", "v3"] => Some(Route::OpenApi),
        ["openapi", "v3", "api", version] => Some(open_api("", version)),
        ["openapi", "v3", "apis", group, version] => Some(open_api(group, version)),
        ["api", version] => Some(resources("", version)),
        ["apis", group, version] => Some(resources(group, version)),
        ["api", version, rest @ ..] => object(scheme, "", version, rest),
        ["apis", group, version, rest @ ..] => object(scheme, group, version, rest),
        _ => None,
    }
}

fn open_api(group: &str, version: &str) -> Route {
    Route::OpenApiOf { group: group.to_owned(), version: version.to_owned() }
}

fn resources(group: &str, version: &str) -> Route {
    Route::Resources { group: group.to_owned(), version: version.to_owned() }
}

fn object(scheme: &Scheme, group: &str, version: &str, rest: &[&str]) -> Option<Route> {
    let (namespace, rest) = match rest {
        // A namespace itself, or its status.
        ["namespaces", _] | ["namespaces", _, "status"] => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let find = |plural: &str| scheme.find(group, version, plural).map(Arc::clone);
    let namespace = namespace.to_owned();
    let status = matches!(rest, [_, _, "status"]);
    match rest {
        [plural] => {
            let resource = find(plural)?;
            let fits = resource.namespaced || namespace.is_empty();
            fits.then_some(Route::Collection { resource, namespace })
        }
        [plural, name] | [plural, name, "status"] => {
            let resource = find(plural)?;
            let fits = resource.namespaced != namespace.is_empty() && (resource.has_status || !status);
            fits.then(|| Route::Object { resource, namespace, name: (*name).to_owned(), status })
        }
        _ => None,
    }
}
