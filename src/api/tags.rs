//! Lists of tags and of repositories.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::query::{Query, next_page};
use crate::auth::Caller;
use crate::oci::{RepositoryName, Tag};
use crate::registry::Page;

/// The most entries of one page, and how many there are when the client does not say. Large, because not every
/// client follows links.
const PAGE: usize = 10_000;

/// end-8
pub(super) async fn list(api: &Api, name: &RepositoryName, request: &Parts) -> Result<Response, ApiError> {
    let query = Query::of(&request.uri);
    let limit = query.limit(PAGE)?;
    let last = last::<Tag>(&query, "a tag")?;
    let page = api.registry.tags(name, limit, last.as_ref()).await?;
    let tags: Vec<&str> = page.entries.iter().map(Tag::as_str).collect();
    let next = tags.last().copied().filter(|_| page.more);
    let path = format!("/v2/{name}/tags/list");
    Ok(answer(&json!({ "name": name.as_str(), "tags": tags }), &path, limit, next))
}

/// `_catalog`, which the spec reserves and every client uses.
pub(super) async fn catalog(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let query = Query::of(request.uri());
    let limit = query.limit(PAGE)?;
    let last = last::<RepositoryName>(&query, "a repository name")?;
    let Some(caller) = request.extensions().get::<Caller>() else { return Err(ApiError::no_such_endpoint()) };
    let page = seen(&api, caller, limit, last).await?;
    let names: Vec<&str> = page.entries.iter().map(RepositoryName::as_str).collect();
    let next = names.last().copied().filter(|_| page.more);
    Ok(answer(&json!({ "repositories": names }), "/v2/_catalog", limit, next))
}

/// Up to `limit` repositories after `last`, of those that the caller may pull from.
async fn seen(
    api: &Api,
    caller: &Caller,
    limit: usize,
    mut last: Option<RepositoryName>,
) -> Result<Page<RepositoryName>, ApiError> {
    if caller.may_pull_everything() {
        return Ok(api.registry.repositories(limit, last.as_ref()).await?);
    }
    let mut seen = Page { entries: Vec::new(), more: false };
    loop {
        let page = api.registry.repositories(PAGE, last.as_ref()).await?;
        last = page.entries.last().cloned();
        for name in page.entries.into_iter().filter(|name| caller.sees(name.as_str())) {
            if seen.entries.len() == limit {
                seen.more = true;
                return Ok(seen);
            }
            seen.entries.push(name);
        }
        if !page.more {
            return Ok(seen);
        }
    }
}

fn last<T: std::str::FromStr>(query: &Query<'_>, wanted: &str) -> Result<Option<T>, ApiError> {
    match query.get("last").filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(last) => Ok(Some(last)),
            Err(_) => Err(ApiError::bad_parameter("last", text, wanted)),
        },
    }
}

fn answer(body: &Value, path: &str, limit: usize, next: Option<&str>) -> Response {
    let mut response = body.to_string().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(last) = next {
        response.headers_mut().extend(next_page(path, &[("n", &limit.to_string()), ("last", last)]));
    }
    response
}
