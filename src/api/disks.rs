//! Disks without an image around them: `GET /disks/<name>/<reference>`.
//!
//! An extension beside the specification, whose paths all begin with `/v2/`. What is served is the file below `disk/` in the
//! image that `<reference>`, a tag or a digest, names in repository `<name>`. With ranges it is a disk for whatever reads disks
//! over HTTP: qemu, nbdkit, CDI, curl.
//!
//! - `?platform=linux/arm64` chooses from an index, as `dvcr pull --platform` does.
//! - `?extents` is answered with JSON in place of the bytes: `{"size":…,"extents":[{"start":…,"length":…,"data":…,"zero":…}]}`,
//!   whose fields are those of `qemu-img map --output=json`. A hole is no data and zero.
//! - `Content-Location` has the digest of the image: a tag may move while a machine reads, and a digest never does.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use percent_encoding::percent_decode_str;

use super::Api;
use super::audit::Event;
use super::blobs::{etag, header};
use super::content::Content;
use super::error::ApiError;
use super::query::Query;
use crate::artifact::Platform;
use crate::bare_disk::BareDisk;
use crate::oci::{Reference, RepositoryName};

/// Where disks are.
pub(super) const PATH: &str = "/disks/{*path}";

/// What their paths begin with.
pub(super) const PREFIX: &str = "/disks/";

pub(super) async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let answer = match parts.method {
        Method::GET | Method::HEAD => read(&api, &parts).await,
        _ => Err(ApiError::method_not_allowed("GET, HEAD")),
    };
    let answer = answer.unwrap_or_else(IntoResponse::into_response);
    Event::told(Event::of_disk(&parts).filter(|_| !reads_on(&answer)), answer)
}

/// Whether it is a piece of a disk that somebody has begun to read: a machine that runs from a disk reads it in a hundred thousand pieces,
/// of which the one with the first byte is told.
fn reads_on(answer: &Response) -> bool {
    let range = answer.headers().get(CONTENT_RANGE);
    answer.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| !range.as_bytes().starts_with(b"bytes 0-"))
}

async fn read(api: &Api, request: &Parts) -> Result<Response, ApiError> {
    let (name, reference) = parse(request.uri.path())?;
    let query = Query::of(&request.uri);
    let platform = query.get("platform").map(platform).transpose()?;
    let disk = api.disks.open(&name, &reference, platform).await?;
    let location = format!("/disks/{name}/{}", disk.manifest);
    let caching = match reference {
        Reference::Digest(_) => HeaderValue::from_static("max-age=31536000, immutable"),
        Reference::Tag(_) => HeaderValue::from_static("no-cache"),
    };
    let mut headers = HeaderMap::from_iter([(CONTENT_LOCATION, header(&location)), (CACHE_CONTROL, caching)]);
    if query.get("extents").is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok((headers, extents(&disk)).into_response());
    }
    // Names of files in layers may hold whatever a tar can: one that would break out of the quotes is left out.
    if disk.file.name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte)) {
        let disposition = format!("attachment; filename=\"{}\"", disk.file.name);
        headers.insert(CONTENT_DISPOSITION, header(&disposition));
    }
    let content = Content { what: "the disk", etag: &etag(&disk.layer), size: disk.file.size, headers };
    content.answer(request, |range| disk.stream(range))
}

/// The extents of a disk as JSON, written while they are read: a large disk may have a million of them.
fn extents(disk: &BareDisk) -> Body {
    let begin = Bytes::from(format!("{{\"size\":{},\"extents\":[", disk.file.size));
    let mut start = 0;
    let each = disk.extents().map_ok(move |extent| {
        let separator = if start == 0 { "" } else { "," };
        let (length, data) = (extent.length, !extent.hole);
        let line = format!(
            "{separator}\n{{\"start\":{start},\"length\":{length},\"data\":{data},\"zero\":{}}}",
            extent.hole
        );
        start += length;
        Bytes::from(line)
    });
    let each = each.inspect_err(|error| {
        tracing::error!(error = error as &dyn std::error::Error, "failed to read the extents of a disk");
    });
    let whole =
        stream::iter([Ok(begin)]).chain(each).chain(stream::iter([Ok(Bytes::from_static(b"\n]}\n"))]));
    Body::from_stream(whole)
}

/// Reads a path: the last segment is the reference.
pub(super) fn parse(path: &str) -> Result<(RepositoryName, Reference), ApiError> {
    let path = path.strip_prefix(PREFIX).unwrap_or(path);
    let path = percent_decode_str(path).decode_utf8().map_err(|_| ApiError::no_such_endpoint())?;
    let (name, reference) = path.rsplit_once('/').ok_or_else(ApiError::no_such_endpoint)?;
    Ok((name.parse()?, reference.parse()?))
}

fn platform(text: &str) -> Result<Platform, ApiError> {
    text.parse().map_err(|_| ApiError::bad_parameter("platform", text, "OS/ARCHITECTURE, as linux/arm64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_segment_is_the_reference() {
        for (path, name, reference) in [
            ("/disks/a/v1", "a", "v1"),
            ("/disks/disks/disks/latest", "disks/disks", "latest"),
            ("/disks/a%2Fb/v1", "a/b", "v1"),
        ] {
            let (found, at) = parse(path).unwrap();
            assert_eq!((found.as_str(), at.to_string().as_str()), (name, reference), "{path}");
        }
        for path in [
            "/disks/a",
            "/disks/",
            "/disks/A/v1",
            "/disks/a/",
            "/disks/../v1",
            "/disks/a/b:c",
            "/disks/%ff/v1",
        ] {
            assert!(parse(path).is_err(), "{path} was accepted");
        }
    }
}
