//! Manifests: GET, HEAD, PUT, DELETE.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::blobs::{DOCKER_CONTENT_DIGEST, etag, header, none_match};
use super::body::{self, Incoming};
use super::error::ApiError;
use super::notices;
use super::query::Query;
use crate::oci::{ErrorCode, MediaType, Reference, RepositoryName, Tag};

/// Tells a client that its `subject` was taken in.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Names the tags of a push by digest that were taken in.
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Tags of one push. The spec asks for 10 at least.
const MAX_TAGS: usize = 100;

/// end-3
pub(super) async fn get(
    api: &Api,
    name: &RepositoryName,
    reference: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    let manifest = api.registry.manifest(name, &reference.parse()?).await?;
    let etag = etag(&manifest.digest);
    let headers = [(ETAG, header(&etag)), (DOCKER_CONTENT_DIGEST, header(&manifest.digest.to_string()))];
    if none_match(&request.headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let content =
        [(CONTENT_TYPE, header(manifest.media_type.as_str())), (CONTENT_LENGTH, manifest.bytes.len().into())];
    // A body that is no `Bytes`: axum gives those a type of its own.
    Ok((headers, content, Body::from(manifest.bytes)).into_response())
}

/// end-7
pub(super) async fn put(
    api: &Api,
    name: &RepositoryName,
    reference: &str,
    request: &Parts,
    body: &mut Incoming,
) -> Result<Response, ApiError> {
    let reference: Reference = reference.parse()?;
    let tags = tags(&reference, &Query::of(&request.uri))?;
    let content_type = request.headers.get(CONTENT_TYPE).map(media_type).transpose()?;
    let limit = api.settings.max_manifest;
    let too_large = || {
        let message = format!("a manifest may have {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::ManifestInvalid, message)
    };
    if body::announced(&request.headers).is_some_and(|announced| announced > limit as u64) {
        return Err(too_large());
    }
    let bytes = body.whole(limit).await?.ok_or_else(too_large)?;
    let size = bytes.len() as u64;
    let pushed = api.registry.push_manifest(name, &reference, &tags, content_type, bytes).await?;
    let moved = if let Reference::Tag(tag) = reference { vec![tag] } else { tags.clone() };
    notices::pushed(api, request, name, moved, &pushed, size).await?;
    let digest = pushed.digest;
    let created = [
        (LOCATION, header(&format!("/v2/{name}/manifests/{digest}"))),
        (DOCKER_CONTENT_DIGEST, header(&digest.to_string())),
    ];
    let mut response = (StatusCode::CREATED, created).into_response();
    if let Some(subject) = pushed.subject {
        response.headers_mut().insert(OCI_SUBJECT, header(&subject.to_string()));
    }
    if !tags.is_empty() {
        // One list: clients limit the number of headers.
        let list = tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", ");
        response.headers_mut().insert(OCI_TAG, header(&list));
    }
    Ok(response)
}

/// end-9
pub(super) async fn delete(
    api: &Api,
    name: &RepositoryName,
    reference: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    notices::delete(api, request, name, &reference.parse()?).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The `tag` parameters of a push by digest (end-7b).
fn tags(reference: &Reference, query: &Query<'_>) -> Result<Vec<Tag>, ApiError> {
    let tags = query.all("tag").map(str::parse).collect::<Result<Vec<Tag>, _>>()?;
    if let (Reference::Tag(tag), [other, ..]) = (reference, tags.as_slice()) {
        return Err(ApiError::bad_parameter(
            "tag",
            other.as_str(),
            &format!("left out when pushing to {tag}"),
        ));
    }
    if tags.len() > MAX_TAGS {
        let message = format!("a push may name {MAX_TAGS} tags");
        return Err(ApiError::new(StatusCode::URI_TOO_LONG, ErrorCode::Unsupported, message));
    }
    Ok(tags)
}

fn media_type(value: &HeaderValue) -> Result<MediaType, ApiError> {
    Ok(String::from_utf8_lossy(value.as_bytes()).parse::<MediaType>()?)
}
