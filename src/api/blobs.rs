//! Blobs: GET, HEAD, DELETE.

use axum::http::header::{CACHE_CONTROL, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, stream};

use super::Api;
use super::content::Content;
use super::error::ApiError;
use crate::oci::{Digest, RepositoryName};

/// The digest of what an answer carries or is about.
pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// end-2
pub(super) async fn get(
    api: &Api,
    name: &RepositoryName,
    digest: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    let digest: Digest = digest.parse()?;
    let etag = etag(&digest);
    let headers = HeaderMap::from_iter([
        (DOCKER_CONTENT_DIGEST, header(&digest.to_string())),
        // The name of a blob is its content.
        (CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable")),
    ]);
    let content = |size| Content { what: "the blob", etag: &etag, size, headers };
    if request.method == Method::HEAD || none_match(&request.headers, &etag) {
        let size = api.registry.blob_size(name, &digest).await?;
        return content(size).answer(request, |_| stream::empty().boxed());
    }
    let blob = api.registry.open_blob(name, &digest).await?;
    content(blob.size()).answer(request, |range| blob.stream(range))
}

/// end-10
pub(super) async fn delete(api: &Api, name: &RepositoryName, digest: &str) -> Result<Response, ApiError> {
    api.registry.delete_blob(name, &digest.parse()?).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The entity tag of content named by `digest`.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has what `etag` names.
pub(super) fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    })
}

/// A header of text that is known to be fit for one.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
