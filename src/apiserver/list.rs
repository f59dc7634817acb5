//! Reading: one object, or all of a collection.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::cause;
use super::incoming::Warnings;
use super::negotiate::form;
use super::query::{Query, VersionMatch};
use super::render::View;
use super::resource::Resource;
use super::router::{Call, Target, answer};
use super::status::ApiError;
use super::store::{Key, Object, Range, Snapshot, Store};

pub(super) fn get(call: &Call<'_>, target: &Target) -> Result<Response, ApiError> {
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let store = &call.server.inner.store;
    // A read sees all that has been written, so any version that exists will do.
    known_version(&call.query, store)?;
    let Target { resource, namespace, name, .. } = target;
    let object = store.get(&Key::new(&resource.storage, namespace, name));
    let object = object.ok_or_else(|| ApiError::not_found(resource, name))?;
    let body = view.object(resource, &object.value, call.server.inner.clock.now());
    Ok(answer(StatusCode::OK, &body, &Warnings::default()))
}

pub(super) fn list(call: &Call<'_>, resource: &Arc<Resource>, namespace: &str) -> Result<Response, ApiError> {
    let view = View::new(form(&call.parts.headers)?, &call.query)?;
    let selector = call.query.selector(resource)?;
    let limit = call.query.number("limit")?.unwrap_or_default();
    let (snapshot, start) = snapshot(&call.query, &call.server.inner.store, &range(resource, namespace))?;
    let version = snapshot.version;

    let after_start =
        |object: &Arc<Object>| start.as_deref().is_none_or(|start| object.key.as_str() >= start);
    let mut matching = snapshot
        .objects
        .into_iter()
        .filter(after_start)
        .filter(|object| selector.matches(&resource.served(&object.value)));
    let page: Vec<Arc<Object>> = match usize::try_from(limit) {
        Ok(limit) if limit > 0 => matching.by_ref().take(limit).collect(),
        _ => matching.by_ref().collect(),
    };
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let Some(next) = matching.next() {
        metadata["continue"] = Continue { version, start: next.key.as_str().to_owned() }.encode().into();
        // kube-apiserver does not know it either when it has to look at each object.
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(matching.count() + 1);
        }
    }
    let page: Vec<&Value> = page.iter().map(|object| &object.value).collect();
    let body = view.list(resource, &page, metadata, call.server.inner.clock.now());
    Ok(answer(StatusCode::OK, &body, &Warnings::default()))
}

pub(super) fn range(resource: &Resource, namespace: &str) -> Range {
    if namespace.is_empty() {
        Range::resource(&resource.storage)
    } else {
        Range::namespace(&resource.storage, namespace)
    }
}

/// The `resourceVersion` of a request, if it is one that exists; 0 stands for any.
pub(super) fn known_version(query: &Query, store: &Store) -> Result<Option<u64>, ApiError> {
    let version = query.number("resourceVersion")?;
    let newest = store.version();
    match version {
        Some(version) if version > newest => Err(ApiError::too_new(version, newest)),
        version => Ok(version),
    }
}

/// What a list is made of, and the key to begin with.
fn snapshot(query: &Query, store: &Store, range: &Range) -> Result<(Snapshot, Option<String>), ApiError> {
    if let Some(token) = query.get("continue") {
        let token =
            Continue::decode(token).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
        let snapshot = store.list_at(range, token.version).map_err(|_| ApiError::page_expired())?;
        return Ok((snapshot, Some(token.start)));
    }
    let version = known_version(query, store)?;
    let snapshot = match (query.version_match()?, version) {
        (VersionMatch::Exact | VersionMatch::NotOlderThan, None) => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(ApiError::invalid_options(
                "ListOptions",
                cause::forbidden("resourceVersionMatch", why),
            ));
        }
        (VersionMatch::Exact, Some(version)) if version > 0 => {
            store.list_at(range, version).map_err(|old| ApiError::too_old(version, old.oldest))?
        }
        (VersionMatch::Exact, _) => {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            return Err(ApiError::invalid_options(
                "ListOptions",
                cause::forbidden("resourceVersionMatch", why),
            ));
        }
        (VersionMatch::Unset | VersionMatch::NotOlderThan, _) => store.list(range),
    };
    Ok((snapshot, None))
}

/// Where the next page begins, and the version that all pages show.
#[derive(Debug, PartialEq, Eq)]
struct Continue {
    version: u64,
    start: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{} {}", self.version, self.start))
    }

    fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let (version, start) = text.split_once(' ')?;
        Some(Self { version: version.parse().ok()?, start: start.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_comes_back_as_it_went() {
        let token = Continue { version: 7, start: "/secrets/a/b".into() };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        assert_eq!(Continue::decode("???"), None);
        assert_eq!(Continue::decode(""), None);
    }
}
