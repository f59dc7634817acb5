//! Uploads of blobs: POST, PATCH, PUT, GET and DELETE of sessions, and mounts.

use axum::http::header::{CONTENT_RANGE, LOCATION, RANGE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::asker::caller;
use super::blobs::{DOCKER_CONTENT_DIGEST, header};
use super::body::{self, Incoming};
use super::delta;
use super::error::ApiError;
use super::query::Query;
use super::{Api, range};
use crate::auth::{Action, Caller};
use crate::oci::{Algorithm, Digest, ErrorCode, RepositoryName};
use crate::registry::{Append, Error, SessionId, UploadStatus};

/// Asks clients that send chunks for chunks of at least so many bytes. Smaller ones are taken too.
const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// What a PATCH may be (RFC 5789, 3.1): clients that know deltas send them to whoever says so.
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// Docker's name for the session.
const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// end-4a: begin a session. end-4b: push a blob in one request. end-11: mount one.
pub(super) async fn begin(
    api: &Api,
    name: &RepositoryName,
    request: &Parts,
    body: &mut Incoming,
) -> Result<Response, ApiError> {
    let query = Query::of(&request.uri);
    if let Some(digest) = query.get("digest") {
        let digest: Digest = digest.parse()?;
        return push(api, name, request, body, &digest).await;
    }
    let mut algorithm =
        query.get("digest-algorithm").map(str::parse).transpose()?.unwrap_or(Algorithm::Sha256);
    // A mount that is not possible is an upload that begins.
    if let Some(Ok(digest)) = query.get("mount").map(str::parse::<Digest>) {
        if mount(api, name, &digest, query.get("from"), caller(request)).await? {
            return Ok(created(name, &digest));
        }
        algorithm = digest.algorithm();
    }
    let status = api.registry.begin_upload(name, algorithm).await?;
    let mut response = (StatusCode::ACCEPTED, session_headers(name, status)).into_response();
    if let Some(bytes) = api.registry.min_chunk() {
        response.headers_mut().insert(OCI_CHUNK_MIN_LENGTH, bytes.into());
    }
    Ok(response)
}

async fn mount(
    api: &Api,
    name: &RepositoryName,
    digest: &Digest,
    from: Option<&str>,
    caller: Option<&Caller>,
) -> Result<bool, ApiError> {
    // What the caller may not pull is not there: they get a session, as for any blob that is not.
    let Some(caller) = caller else { return Ok(false) };
    match from.map(str::parse::<RepositoryName>) {
        Some(Err(_)) => Ok(false),
        Some(Ok(from)) if !caller.may(Action::Pull, from.as_str()) => Ok(false),
        Some(Ok(from)) => Ok(api.registry.mount(name, digest, Some(&from)).await?),
        None if !caller.may_pull_everything() => Ok(false),
        None => Ok(api.registry.mount(name, digest, None).await?),
    }
}

async fn push(
    api: &Api,
    name: &RepositoryName,
    request: &Parts,
    body: &mut Incoming,
    digest: &Digest,
) -> Result<Response, ApiError> {
    let append = Append { start: None, length: content_length(&request.headers) };
    let mut content = delta::content(&api.registry, request, body);
    api.registry.push_blob(name, append, &mut content, digest).await?;
    Ok(created(name, digest))
}

/// end-5
pub(super) async fn append(
    api: &Api,
    name: &RepositoryName,
    id: &str,
    request: &Parts,
    body: &mut Incoming,
) -> Result<Response, ApiError> {
    let id: SessionId = id.parse()?;
    let append = announced(api, name, id, &request.headers).await?;
    let mut content = delta::content(&api.registry, request, body);
    let appended = api.registry.append(name, id, append, &mut content).await;
    let status = appended.map_err(|error| refusal(name, error))?;
    Ok((StatusCode::ACCEPTED, session_headers(name, status)).into_response())
}

/// end-6
pub(super) async fn finish(
    api: &Api,
    name: &RepositoryName,
    id: &str,
    request: &Parts,
    body: &mut Incoming,
) -> Result<Response, ApiError> {
    let id: SessionId = id.parse()?;
    let query = Query::of(&request.uri);
    let Some(digest) = query.get("digest") else {
        let message = "the parameter digest is missing: it names the blob that the upload makes";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, message));
    };
    let digest: Digest = digest.parse()?;
    let append = announced(api, name, id, &request.headers).await?;
    let mut content = delta::content(&api.registry, request, body);
    let finished = api.registry.finish_upload(name, id, append, &mut content, &digest).await;
    finished.map_err(|error| refusal(name, error))?;
    Ok(created(name, &digest))
}

/// end-13
pub(super) async fn status(api: &Api, name: &RepositoryName, id: &str) -> Result<Response, ApiError> {
    let status = api.registry.upload_status(name, id.parse()?).await?;
    Ok((StatusCode::NO_CONTENT, session_headers(name, status)).into_response())
}

/// end-14
pub(super) async fn cancel(api: &Api, name: &RepositoryName, id: &str) -> Result<Response, ApiError> {
    api.registry.cancel_upload(name, id.parse()?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What the headers say of the bytes that follow.
async fn announced(
    api: &Api,
    name: &RepositoryName,
    id: SessionId,
    headers: &HeaderMap,
) -> Result<Append, ApiError> {
    let length = content_length(headers);
    let Some(content_range) = headers.get(CONTENT_RANGE) else {
        return Ok(Append { start: None, length });
    };
    let Some(append) = content_range.to_str().ok().and_then(range::chunk) else {
        let status = api.registry.upload_status(name, id).await?;
        let message = format!("Content-Range must read <first byte>-<last byte>, not {content_range:?}");
        let answer = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid, message);
        return Err(with_session(answer, name, status));
    };
    match (append.length, length) {
        (Some(range), Some(body)) if range != body => {
            let message = format!("Content-Range has {range} bytes and Content-Length {body}");
            Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, message))
        }
        _ => Ok(append),
    }
}

/// Bytes of the blob in the body, as far as its length tells. What a delta stands for only its `Content-Range` tells.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    if delta::is_delta(headers) { None } else { body::announced(headers) }
}

/// A refused chunk says where the session stands, so that the client can go on from there.
fn refusal(name: &RepositoryName, error: Error) -> ApiError {
    match error {
        Error::OutOfOrder { id, length } => with_session(error.into(), name, UploadStatus { id, length }),
        other => other.into(),
    }
}

fn with_session(answer: ApiError, name: &RepositoryName, status: UploadStatus) -> ApiError {
    session_headers(name, status)
        .into_iter()
        .fold(answer, |answer, (name, value)| answer.with_header(name, value))
}

fn session_headers(name: &RepositoryName, status: UploadStatus) -> [(HeaderName, HeaderValue); 4] {
    [
        (LOCATION, header(&format!("/v2/{name}/blobs/uploads/{}", status.id))),
        (RANGE, header(&format!("0-{}", status.length.saturating_sub(1)))),
        (DOCKER_UPLOAD_UUID, header(&status.id.to_string())),
        (ACCEPT_PATCH, HeaderValue::from_static(delta::ACCEPTED)),
    ]
}

fn created(name: &RepositoryName, digest: &Digest) -> Response {
    let headers = [
        (LOCATION, header(&format!("/v2/{name}/blobs/{digest}"))),
        (DOCKER_CONTENT_DIGEST, header(&digest.to_string())),
    ];
    (StatusCode::CREATED, headers).into_response()
}
