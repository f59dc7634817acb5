//! Bodies of requests: as the engine wants them, and rid of when nobody does.

use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::error::ApiError;
use crate::registry::{Body, BodyError};

/// The body of a request, which fails when the client is silent for `idle`. There is no limit on the
/// whole.
pub(super) fn stream(request: Request, idle: Duration) -> Body {
    let body = request.into_body().into_data_stream();
    stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(idle, body.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(_))) => Some((Err(BodyError::Interrupted), None)),
            Ok(None) => None,
            Err(_) => Some((Err(BodyError::Stalled(idle.as_secs())), None)),
        }
    })
    // After an error the rest is drained, and there may be none.
    .fuse()
    .boxed()
}

/// What `Content-Length` announces.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The most that is read and dropped so that a client that is still sending sees the answer.
const DRAIN: usize = 16 << 20;

/// Reads on after an error: closing on a client in the middle of its body resets the connection, and the
/// answer may be lost with it. A client that waits for `100 Continue` has sent nothing, and is not asked to.
pub(super) async fn drain(mut body: Body, headers: &HeaderMap) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let mut drained = 0;
    while drained < DRAIN {
        match body.next().await {
            Some(Ok(piece)) => drained += piece.len(),
            Some(Err(_)) | None => return,
        }
    }
}

/// A whole body of at most `limit` bytes; `None` when it is longer.
pub(super) async fn whole(mut body: Body, limit: usize) -> Result<Option<Bytes>, ApiError> {
    let mut whole = Vec::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(crate::registry::Error::from)?;
        if whole.len() + piece.len() > limit {
            return Ok(None);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(Some(whole.into()))
}
