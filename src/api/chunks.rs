//! `GET /v2/<name>/_dvcr/chunks/<digest>`: which chunks a blob is made of.
//!
//! An extension in the form that the specification gives them. Whoever may read the blob learns nothing by it: the chunks are
//! the blob's. What it saves is bytes: with an older version of a disk at hand, `dvcr pull --base` asks for the rest only.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::TryStreamExt as _;

use super::Api;
use super::error::ApiError;
use crate::chunk::LISTING;
use crate::oci::{Digest, RepositoryName};

/// Entries that are sent at once.
const AT_ONCE: usize = 1024;

pub(super) async fn list(api: &Api, name: &RepositoryName, digest: &str) -> Result<Response, ApiError> {
    let digest: Digest = digest.parse()?;
    let blob = api.registry.open_blob(name, &digest).await?;
    let listing = blob.chunks().try_chunks(AT_ONCE).map_err(|error| error.1).map_ok(|entries| {
        let mut listing = BytesMut::new();
        for entry in entries {
            entry.encode(&mut listing);
        }
        listing.freeze()
    });
    let listing = listing.inspect_err(move |error| {
        tracing::error!(error = error as &dyn std::error::Error, %digest, "failed to list the chunks of a blob");
    });
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(LISTING))], Body::from_stream(listing)).into_response())
}
