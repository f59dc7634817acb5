//! What each request needs, by its method and path alone: the one place that says who may do what over HTTP.
//!
//! It reads paths as the handlers do, with the same functions. A path that is not known here needs the right to look after the
//! registry: an endpoint that is added and forgotten is closed, not open.

use axum::http::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::query::Query;
use super::route::{Route, parse};
use super::{disks, token};
use crate::auth::{Action, Actions, Caller, Scope};
use crate::oci::RepositoryName;

/// What a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing, or something else than credentials.
    Nothing,
    /// To know who it is, even if that is nobody.
    Token,
    /// To be somebody.
    User,
    /// The list of repositories, of which each caller sees a part.
    Catalog,
    /// This with that repository, and in a token that is made for it, that with another one.
    Repository { name: String, actions: Actions, from: Option<String> },
    /// To look after the registry.
    Admin,
}

/// Who is asked, and so in whose words the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Registry,
    Files,
    Kubernetes,
}

impl Need {
    fn repository(name: &str, action: Action) -> Self {
        Self::Repository { name: name.to_owned(), actions: action.into(), from: None }
    }

    /// What a request needs.
    pub(super) fn of(method: &Method, uri: &Uri) -> (Side, Self) {
        let path = uri.path();
        if matches!(path, "/livez" | "/readyz" | token::PATH) || path.starts_with("/upload/") {
            return (Side::Files, Self::Nothing);
        }
        if matches!(path, "/v2" | "/v2/") {
            return (Side::Registry, Self::Token);
        }
        if path == "/v2/_catalog" {
            return (Side::Registry, Self::Catalog);
        }
        if let Some(path) = path.strip_prefix("/v2/") {
            return (Side::Registry, parse(path).map_or(Self::Admin, |route| of_route(&route, method, uri)));
        }
        if path.starts_with("/disks/") {
            let disk = disks::parse(path);
            let need = disk.map_or(Self::Admin, |(name, _)| Self::repository(name.as_str(), Action::Pull));
            return (Side::Files, need);
        }
        match kubernetes(method, path) {
            Some(need) => (Side::Kubernetes, need),
            None => (Side::Files, Self::Admin),
        }
    }

    /// Whether somebody has what it takes.
    pub(super) fn is_met_by(&self, caller: &Caller, has_credential: bool) -> bool {
        match self {
            Self::Nothing => true,
            Self::Token => has_credential,
            Self::User => has_credential && !caller.identity().is_anonymous(),
            // Also strangers have to ask for a token: who could say more would otherwise not know that they are to.
            Self::Catalog => has_credential && caller.may_list(),
            Self::Repository { name, actions, .. } => caller.may_all(*actions, name),
            Self::Admin => caller.may_administer(),
        }
    }

    /// What a token has to open.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        match self {
            Self::Nothing | Self::Token | Self::User => Vec::new(),
            Self::Catalog => vec![Scope::catalog()],
            Self::Admin => vec![Scope::admin()],
            Self::Repository { name, actions, from } => {
                // Whoever pushes looks first what is there.
                let actions =
                    if actions.has(Action::Push) { actions.or(Action::Pull.into()) } else { *actions };
                let from = from.iter().map(|from| Scope::repository(from, Action::Pull.into()));
                std::iter::once(Scope::repository(name, actions)).chain(from).collect()
            }
        }
    }
}

fn of_route(route: &Route, method: &Method, uri: &Uri) -> Need {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match route {
        Route::Uploads { name } => {
            let from = Query::of(uri).get("from").and_then(|from| from.parse::<RepositoryName>().ok());
            let from = from.map(|from| from.to_string());
            Need::Repository { name: name.to_string(), actions: Action::Push.into(), from }
        }
        Route::Upload { name, .. } => Need::repository(name.as_str(), Action::Push),
        Route::Manifest { name, .. } | Route::Blob { name, .. } => {
            let action = match *method {
                Method::DELETE => Action::Delete,
                _ if is_read => Action::Pull,
                _ => Action::Push,
            };
            Need::repository(name.as_str(), action)
        }
        Route::Tags { name } | Route::Referrers { name, .. } | Route::Chunks { name, .. } => {
            Need::repository(name.as_str(), if is_read { Action::Pull } else { Action::Push })
        }
    }
}

/// What a request to the API server needs: of a resource that is an image, what its repository needs; of whatever else is in a
/// namespace, what any image in it needs. `None`: the path is none of Kubernetes.
fn kubernetes(method: &Method, path: &str) -> Option<Need> {
    let segments: Option<Vec<String>> = path
        .trim_matches('/')
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned))
        .collect();
    let segments = segments?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let rest = match segments.as_slice() {
        ["version" | "api" | "apis"] | ["openapi", ..] | ["api" | "apis", _] | ["apis", _, _] => {
            return Some(Need::User);
        }
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return None,
    };
    // A slash that was encoded means nothing to the API server; here it must not mean a segment more.
    if rest.iter().any(|segment| segment.is_empty() || segment.contains('/')) {
        return Some(Need::Admin);
    }
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let open = match *method {
        Method::DELETE => Action::Delete.into(),
        _ if is_read => Action::Pull.into(),
        _ => Action::Push.into(),
    };
    // Who reads a secret may act as others, and who reads an image that waits for its file may upload that; what is deleted is in
    // the answer.
    let closed = match *method {
        Method::DELETE => Actions::from(Action::Push).or(Action::Delete.into()),
        _ => Action::Push.into(),
    };
    let of = |name: String, actions| Need::Repository { name, actions, from: None };
    let in_namespace = |namespace: &str, name: &str, actions| of(format!("vi/{namespace}/{name}"), actions);
    Some(match rest {
        // What the controller says of an image is nobody else's to say.
        [
            ..,
            "virtualimages" | "clustervirtualimages" | "vmdisks" | "vmdiskses" | "vminstances",
            _,
            "status",
        ] if !is_read => Need::Admin,
        ["namespaces" | "events"] => in_namespace("*", "*", open),
        ["namespaces", namespace]
        | ["namespaces", namespace, "status"]
        | ["namespaces", namespace, "events", ..] => in_namespace(namespace, "*", open),
        ["virtualimages" | "vmdisks" | "vmdiskses" | "vminstances" | "secrets"] => {
            in_namespace("*", "*", closed)
        }
        // Disks and machines are in no repository: they belong to all who have the namespace.
        ["namespaces", namespace, "virtualimages"]
        | ["namespaces", namespace, "vmdisks" | "vmdiskses" | "vminstances" | "secrets", ..] => {
            in_namespace(namespace, "*", closed)
        }
        ["namespaces", namespace, "virtualimages", name, ..] => in_namespace(namespace, name, closed),
        ["clustervirtualimages"] => of("cvi/*".to_owned(), closed),
        ["clustervirtualimages", name, ..] => of(format!("cvi/{name}"), closed),
        _ => Need::Admin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(method: &str, uri: &str) -> String {
        let (_, need) = Need::of(&method.parse().unwrap(), &uri.parse().unwrap());
        match need {
            Need::Repository { name, actions, from: None } => format!("{actions} {name}"),
            Need::Repository { name, actions, from: Some(from) } => format!("{actions} {name} from {from}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn each_endpoint_of_the_specification_needs_its_action() {
        for (method, uri, expected) in [
            ("GET", "/v2/", "Token"),
            ("GET", "/v2", "Token"),
            ("HEAD", "/v2/a/b/blobs/sha256:0", "pull a/b"),
            ("GET", "/v2/a/b/blobs/sha256%3A0", "pull a/b"),
            ("DELETE", "/v2/a/blobs/sha256:0", "delete a"),
            ("GET", "/v2/a/manifests/v1", "pull a"),
            ("PUT", "/v2/a/manifests/v1", "push a"),
            ("DELETE", "/v2/a/manifests/v1", "delete a"),
            ("POST", "/v2/a/blobs/uploads/", "push a"),
            ("POST", "/v2/a/blobs/uploads/?mount=sha256:0&from=b/c", "push a from b/c"),
            ("POST", "/v2/a/blobs/uploads/?mount=sha256:0&from=..", "push a"),
            ("PATCH", "/v2/a/blobs/uploads/7", "push a"),
            ("PUT", "/v2/a/blobs/uploads/7?digest=x", "push a"),
            ("GET", "/v2/a/blobs/uploads/7", "push a"),
            ("DELETE", "/v2/a/blobs/uploads/7", "push a"),
            ("GET", "/v2/a/tags/list", "pull a"),
            ("GET", "/v2/a/referrers/sha256:0", "pull a"),
            ("GET", "/v2/a/_dvcr/chunks/sha256:0", "pull a"),
            ("POST", "/v2/a/tags/list", "push a"),
            ("GET", "/v2/_catalog?n=1", "Catalog"),
            ("GET", "/disks/a/b/v1", "pull a/b"),
            ("GET", "/disks/a%2Fb/v1", "pull a/b"),
        ] {
            assert_eq!(need(method, uri), expected, "{method} {uri}");
        }
    }

    #[test]
    fn what_is_not_known_is_closed() {
        for (method, uri) in [
            ("GET", "/v2/_dvcr/storage/stats"),
            ("POST", "/v2/_dvcr/storage/collect"),
            ("POST", "/v2/_dvcr/storage/rewrite"),
            ("POST", "/v2/_dvcr/storage/anything"),
            ("GET", "/v2/%5Fcatalog"),
            ("GET", "/v2//_catalog"),
            ("GET", "/v2/../a/tags/list"),
            ("GET", "/disks/A/v1"),
            ("GET", "/metrics"),
            ("GET", "/"),
            ("GET", "/livez/"),
            ("GET", "/V2/"),
            ("GET", "/apis/g/v1/namespaces/n/widgets"),
            ("GET", "/apis/g/v1/namespaces/a%2Fb/virtualimages"),
            ("GET", "/api/v1/nodes"),
        ] {
            assert_eq!(need(method, uri), "Admin", "{method} {uri}");
        }
    }

    #[test]
    fn resources_need_what_their_images_need() {
        let group = "/apis/virtualization.deckhouse.io/v1alpha2";
        for (method, path, expected) in [
            ("GET", format!("{group}/namespaces/a/virtualimages/x"), "push vi/a/x"),
            ("GET", format!("{group}/namespaces/a/virtualimages?watch=1"), "push vi/a/*"),
            ("POST", format!("{group}/namespaces/a/virtualimages"), "push vi/a/*"),
            ("PATCH", format!("{group}/namespaces/a/virtualimages/x"), "push vi/a/x"),
            ("PUT", format!("{group}/namespaces/a/virtualimages/x/status"), "Admin"),
            ("DELETE", format!("{group}/namespaces/a/virtualimages/x"), "push,delete vi/a/x"),
            ("DELETE", format!("{group}/namespaces/a/virtualimages"), "push,delete vi/a/*"),
            ("GET", format!("{group}/namespaces/a/vmdisks/x"), "push vi/a/*"),
            ("POST", format!("{group}/namespaces/a/vmdiskses"), "push vi/a/*"),
            ("PUT", format!("{group}/namespaces/a/vmdisks/x/status"), "Admin"),
            ("PATCH", format!("{group}/namespaces/a/vminstances/x"), "push vi/a/*"),
            ("PATCH", format!("{group}/namespaces/a/vminstances/x/status"), "Admin"),
            ("GET", format!("{group}/virtualimages"), "push vi/*/*"),
            ("GET", format!("{group}/clustervirtualimages"), "push cvi/*"),
            ("DELETE", format!("{group}/clustervirtualimages/x"), "push,delete cvi/x"),
            ("GET", "/api/v1/namespaces/a/secrets/s".to_owned(), "push vi/a/*"),
            ("DELETE", "/api/v1/namespaces/a/secrets/s".to_owned(), "push,delete vi/a/*"),
            ("GET", "/api/v1/secrets".to_owned(), "push vi/*/*"),
            ("GET", "/api/v1/namespaces/a/events".to_owned(), "pull vi/a/*"),
            ("GET", "/apis/events.k8s.io/v1/namespaces/a/events".to_owned(), "pull vi/a/*"),
            ("GET", "/api/v1/namespaces".to_owned(), "pull vi/*/*"),
            ("DELETE", "/api/v1/namespaces/a".to_owned(), "delete vi/a/*"),
            ("GET", "/api/v1/".to_owned(), "User"),
            ("GET", "/apis".to_owned(), "User"),
            ("GET", "/openapi/v3/api/v1".to_owned(), "User"),
            ("GET", "/version".to_owned(), "User"),
        ] {
            assert_eq!(need(method, &path), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_is_for_machines_and_has_its_own_credentials_is_open() {
        for uri in ["/livez", "/readyz", "/token", "/upload/abc"] {
            assert_eq!(need("GET", uri), "Nothing", "{uri}");
        }
    }
}
