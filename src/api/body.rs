//! Bodies of requests: as the engine wants them, and rid of when nobody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};

use super::error::ApiError;
use crate::registry::{Body, BodyError};

/// The most that is read and dropped so that a client that is still sending sees the answer.
const DRAIN: usize = 16 << 20;

/// The body of a request that is handled.
pub(super) struct Incoming {
    /// Its bytes. The stream fails when the client is silent for too long; there is no limit on the whole.
    pub(super) stream: Body,
    asked_for: Arc<AtomicBool>,
}

impl Incoming {
    pub(super) fn new(body: axum::body::Body, idle: Duration) -> Self {
        let asked_for = Arc::new(AtomicBool::new(false));
        Self { stream: stream(body, idle, Arc::clone(&asked_for)), asked_for }
    }

    /// Reads on after an error: closing on a client in the middle of its body resets the connection, and the
    /// answer may be lost with it. A client that still waits for `100 Continue` is not asked for more.
    pub(super) async fn drain(mut self, headers: &HeaderMap) {
        if headers.contains_key(EXPECT) && !self.asked_for.load(Ordering::Relaxed) {
            return;
        }
        let mut drained = 0;
        while drained < DRAIN {
            match self.stream.next().await {
                Some(Ok(piece)) => drained += piece.len(),
                Some(Err(_)) | None => return,
            }
        }
    }

    /// The body for whoever wants to have it whole; what they leave can still be drained here.
    pub(super) fn split(&mut self) -> Body {
        let stream = std::mem::replace(&mut self.stream, stream::empty().boxed());
        let stream = Arc::new(tokio::sync::Mutex::new(stream));
        let read = |stream: Arc<tokio::sync::Mutex<Body>>| {
            let pieces = stream::unfold(stream, async |stream| {
                let piece = stream.lock().await.next().await?;
                Some((piece, stream))
            });
            pieces.boxed()
        };
        self.stream = read(Arc::clone(&stream));
        read(stream)
    }

    /// The whole body, of at most `limit` bytes; `None` when it is longer.
    pub(super) async fn whole(&mut self, limit: usize) -> Result<Option<Bytes>, ApiError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.stream.next().await {
            let piece = piece.map_err(crate::registry::Error::from)?;
            if whole.len() + piece.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.freeze()))
    }
}

fn stream(body: axum::body::Body, idle: Duration, asked_for: Arc<AtomicBool>) -> Body {
    let body = body.into_data_stream();
    stream::unfold(Some(body), move |body| {
        asked_for.store(true, Ordering::Relaxed);
        next(body, idle)
    })
    // After an error the rest is drained, and there may be none.
    .fuse()
    .boxed()
}

async fn next(
    body: Option<BodyDataStream>,
    idle: Duration,
) -> Option<(Result<Bytes, BodyError>, Option<BodyDataStream>)> {
    let mut body = body?;
    match tokio::time::timeout(idle, body.next()).await {
        Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
        Ok(Some(Err(_))) => Some((Err(BodyError::Interrupted), None)),
        Ok(None) => None,
        Err(_) => Some((Err(BodyError::Stalled(idle.as_secs())), None)),
    }
}

/// What `Content-Length` announces.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
