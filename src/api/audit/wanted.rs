//! What a request wants that has to be told, by its method, path and headers.

use axum::http::request::Parts;
use axum::http::{Method, Uri};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::Event;
use crate::api::access::{Need, Side};
use crate::api::body::announced;
use crate::api::query::Query;
use crate::api::route::{Route, parse};
use crate::api::{collect, disks, rewrite, verify};
use crate::oci::RepositoryName;

/// What is told of how the registry is looked after. Whatever else somebody writes behind `?` is not.
const PARAMETERS: [&str; 5] = ["to", "depth", "rate", "restart", "dryRun"];

impl Event {
    /// What a request wants that has to be told.
    pub(in crate::api) fn of(route: &Route, request: &Parts) -> Option<Self> {
        let mut from = None;
        let (action, name, reference) = match (route, &request.method) {
            (Route::Manifest { name, reference }, &Method::GET) => ("pull", name, reference.clone()),
            (Route::Manifest { name, reference }, &Method::PUT) => ("push", name, reference.clone()),
            (Route::Manifest { name, reference }, &Method::DELETE) => ("delete", name, reference.clone()),
            (Route::Blob { name, digest }, &Method::DELETE) => ("delete_blob", name, digest.clone()),
            (Route::Uploads { name }, &Method::POST) => {
                let query = Query::of(&request.uri);
                let Some(digest) = query.get("mount").map(str::to_owned) else {
                    let digest = query.get("digest").map(str::to_owned);
                    return Some(Self::part(name, digest, request));
                };
                from = query.get("from").map(str::to_owned);
                ("mount", name, digest)
            }
            (Route::Upload { name, id }, &Method::PATCH | &Method::PUT) => {
                let digest = Query::of(&request.uri).get("digest").map(str::to_owned);
                return Some(Self::part(name, digest.or_else(|| Some(id.clone())), request));
            }
            _ => return None,
        };
        Some(Self { from, ..Self::in_repository(action, name, reference, request) })
    }

    /// The same of a request that is refused before anything is looked at: a push ends where its first upload begins.
    pub(in crate::api) fn of_refused(request: &Parts) -> Option<Self> {
        let elsewhere = Self::of_administration(request).or_else(|| Self::of_resource(request));
        if let Some(event) = elsewhere.or_else(|| Self::of_disk(request)) {
            return Some(event);
        }
        let route = parse(request.uri.path().strip_prefix("/v2/")?).ok()?;
        match (&route, &request.method) {
            (Route::Uploads { name }, &Method::POST) if Query::of(&request.uri).get("mount").is_none() => {
                Some(Self::in_repository("push", name, String::new(), request))
            }
            (Route::Upload { .. }, _) => None,
            _ => Self::of(&route, request),
        }
    }

    /// The pull of a disk without its image.
    pub(in crate::api) fn of_disk(request: &Parts) -> Option<Self> {
        let asks_for_bytes =
            request.method == Method::GET && Query::of(&request.uri).get("extents").is_none();
        if !request.uri.path().starts_with(disks::PREFIX) || !asks_for_bytes {
            return None;
        }
        let (name, reference) = disks::parse(request.uri.path()).ok()?;
        Some(Self::in_repository("pull", &name, reference.to_string(), request))
    }

    /// Looking after the registry.
    pub(in crate::api) fn of_administration(request: &Parts) -> Option<Self> {
        let action = match (&request.method, request.uri.path()) {
            (&Method::POST, collect::PATH) => "collect",
            (&Method::POST, rewrite::PATH) => "rewrite",
            (&Method::POST, verify::PATH) => "verify",
            _ => return None,
        };
        let query = Query::of(&request.uri);
        let said = PARAMETERS.into_iter().filter_map(|name| Some(format!("{name}={}", query.get(name)?)));
        let parameters = said.collect::<Vec<_>>().join("&");
        Some(Self {
            parameters: (!parameters.is_empty()).then_some(parameters),
            // A verification that puts nothing aside is one nevertheless.
            only_looks: action == "collect" && query.get("dryRun") == Some("true"),
            ..Self::new(action, request)
        })
    }

    /// A change of an object of the embedded API. Events there are what others say of objects.
    pub(in crate::api) fn of_resource(request: &Parts) -> Option<Self> {
        let action = match request.method {
            Method::POST => "create",
            Method::PUT | Method::PATCH => "update",
            Method::DELETE => "delete",
            _ => return None,
        };
        let (Side::Kubernetes, _) = Need::of(&request.method, &request.uri) else { return None };
        let object = Object::of(&request.uri)?;
        if object.resource.starts_with("events") {
            return None;
        }
        let Object { resource, namespace, name } = object;
        Some(Self { resource: Some(resource), namespace, name, ..Self::new(action, request) })
    }

    /// A file for an image, which has this UID if its address is one of ours. The address itself is a secret.
    pub(in crate::api) fn of_image_upload(request: &Parts, image: Option<Uuid>) -> Option<Self> {
        let action = match request.method {
            Method::PUT | Method::POST => "upload",
            Method::DELETE => "delete_upload",
            _ => return None,
        };
        let size = (action == "upload").then(|| announced(&request.headers)).flatten();
        Some(Self { reference: image.map(|image| image.to_string()), size, ..Self::new(action, request) })
    }

    fn in_repository(
        action: &'static str,
        name: &RepositoryName,
        reference: String,
        request: &Parts,
    ) -> Self {
        Self {
            repository: Some(name.to_string()),
            reference: Some(reference),
            size: (action == "push").then(|| announced(&request.headers)).flatten(),
            ..Self::new(action, request)
        }
    }

    /// A part of a push, of which the manifest that ends it tells; but if it breaks off there will be none.
    fn part(name: &RepositoryName, reference: Option<String>, request: &Parts) -> Self {
        let event = Self::in_repository("push", name, String::new(), request);
        Self { reference, only_interrupted: true, ..event }
    }
}

/// What a path of the embedded API names.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

impl Object {
    fn of(uri: &Uri) -> Option<Self> {
        let path = percent_decode_str(uri.path()).decode_utf8().ok()?;
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = segments.as_slice() else { return None };
        let (namespace, rest) = match rest {
            ["namespaces", _] | ["namespaces", _, "status"] => (None, rest),
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (resource, name) = match rest {
            [plural] => ((*plural).to_owned(), None),
            [plural, name] => ((*plural).to_owned(), Some(*name)),
            [plural, name, subresource] => (format!("{plural}/{subresource}"), Some(*name)),
            _ => return None,
        };
        Some(Self { resource, namespace, name: name.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_object_as_kubernetes_does() {
        let group = "/apis/virtualization.deckhouse.io/v1alpha2";
        for (path, resource, namespace, name) in [
            (format!("{group}/namespaces/a/virtualimages/x"), "virtualimages", Some("a"), Some("x")),
            (format!("{group}/namespaces/a/virtualimages"), "virtualimages", Some("a"), None),
            (
                format!("{group}/namespaces/a/virtualimages/x/status"),
                "virtualimages/status",
                Some("a"),
                Some("x"),
            ),
            (format!("{group}/clustervirtualimages/x"), "clustervirtualimages", None, Some("x")),
            ("/api/v1/namespaces".to_owned(), "namespaces", None, None),
            ("/api/v1/namespaces/a".to_owned(), "namespaces", None, Some("a")),
            ("/api/v1/namespaces/a/secrets/s".to_owned(), "secrets", Some("a"), Some("s")),
        ] {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let expected =
                Object { resource: resource.to_owned(), namespace: owned(namespace), name: owned(name) };
            assert_eq!(Object::of(&path.parse().unwrap()), Some(expected), "{path}");
        }
        for path in ["/v2/a/manifests/x", "/api", "/apis/g", "/api/v1/a/b/c/d"] {
            assert_eq!(Object::of(&path.parse().unwrap()), None, "{path}");
        }
    }

    #[test]
    fn only_changes_are_told_and_what_they_say_by_the_words_that_are_known() {
        let event = |method: &str, uri: &str| {
            let request = axum::http::Request::builder().method(method).uri(uri).body(()).unwrap();
            Event::of_refused(&request.into_parts().0)
        };
        let told = event("POST", "/v2/_dvcr/storage/verify?depth=quick&password=secret").unwrap();
        assert_eq!((told.action, told.parameters.as_deref()), ("verify", Some("depth=quick")));
        assert!(event("POST", "/v2/_dvcr/storage/collect?dryRun=true").unwrap().only_looks);
        assert_eq!(event("PATCH", "/api/v1/namespaces/a/secrets/s").unwrap().action, "update");
        for (method, uri) in [
            ("GET", "/api/v1/namespaces/a/secrets/s"),
            ("POST", "/api/v1/namespaces/a/events"),
            ("GET", "/v2/_dvcr/storage/stats"),
            ("PATCH", "/v2/a/blobs/uploads/1"),
            ("PUT", "/upload/secret"),
        ] {
            assert!(event(method, uri).is_none(), "{method} {uri}");
        }
    }
}
