//! [`BlobUpload`]: a blob of known size and still unknown digest, to a registry, over broken connections.
//!
//! The blob goes out in a few long PATCH requests. The last [`REPLAY`] bytes are kept, so that after a broken
//! connection the upload goes on where the registry says that it stopped. A registry that lost more than
//! that (it was killed) asks for a [`UploadError::Rewind`]: whoever makes the bytes makes them again, and
//! those that arrived are passed over. The session's URL is all that another process needs to go on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use reqwest::{Body, Method, Request, StatusCode};
use tokio::sync::{Mutex, mpsc};
use url::Url;

use super::repository::location;
use super::{Backoff, COMMIT_PATIENCE, ClientError, Repository, Response};
use crate::oci::Digest;

/// Bytes in one PATCH. Long, because each costs the registry a record; not endless, because what a registry
/// acknowledged with 202 is what it will still have after it was killed.
const PATCH: u64 = 1 << 30;

/// Bytes that are kept to be sent again. What a broken connection loses is in the buffers on the way.
const REPLAY: usize = 32 << 20;

/// Why an upload did not go on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The registry or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The registry has fewer bytes than it had. They have to be made again from the first; those before
    /// [`BlobUpload::offset`] are passed over.
    #[error("the registry lost a part of the upload")]
    Rewind,
    /// The bytes ended early: whoever makes them knows why.
    #[error("the upload was given up")]
    Abandoned,
}

/// An upload session.
#[derive(Debug, Clone)]
pub struct BlobUpload {
    repository: Repository,
    session: Url,
    offset: u64,
}

/// The bytes of a blob, from the first on, as somebody else makes them.
#[derive(Debug)]
pub struct BlobFeed {
    pieces: mpsc::Receiver<Bytes>,
    total: u64,
    /// What was taken from `pieces` and may have to be sent again; it ends at `taken`.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    taken: u64,
    /// The next byte to send.
    position: u64,
    /// Bytes that arrived at the registry or are on the way, for a progress bar.
    sent: Arc<AtomicU64>,
}

impl BlobFeed {
    /// A blob of `total` bytes that come through `pieces`; `sent` is kept at the number of bytes sent.
    #[must_use]
    pub fn new(pieces: mpsc::Receiver<Bytes>, total: u64, sent: Arc<AtomicU64>) -> Self {
        Self { pieces, total, kept: VecDeque::new(), kept_bytes: 0, taken: 0, position: 0, sent }
    }

    /// Makes `position` the next byte.
    async fn seek(&mut self, position: u64) -> Result<(), UploadError> {
        if position < self.taken - self.kept_bytes as u64 {
            return Err(UploadError::Rewind);
        }
        while self.taken < position {
            self.take().await.ok_or(UploadError::Abandoned)?;
        }
        self.position = position;
        Ok(())
    }

    async fn take(&mut self) -> Option<()> {
        let piece = self.pieces.recv().await?;
        self.taken += piece.len() as u64;
        self.kept_bytes += piece.len();
        self.kept.push_back(piece);
        while self.kept_bytes - self.kept.front().map_or(0, Bytes::len) >= REPLAY {
            self.kept_bytes -= self.kept.pop_front().map_or(0, |piece| piece.len());
        }
        Some(())
    }

    /// The next bytes, at most `limit`.
    async fn next(&mut self, limit: u64) -> Option<Bytes> {
        if self.position == self.taken {
            self.take().await?;
        }
        let mut start = self.taken - self.kept_bytes as u64;
        for piece in &self.kept {
            let end = start + piece.len() as u64;
            if self.position < end {
                let mut found = piece.clone();
                found.advance(usize::try_from(self.position - start).unwrap_or(0));
                found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
                self.position += found.len() as u64;
                self.sent.store(self.position, Ordering::Relaxed);
                return Some(found);
            }
            start = end;
        }
        None
    }
}

/// Tells a slow registry from a slow source.
#[derive(Debug)]
struct Activity {
    began: Instant,
    /// Milliseconds since `began` when the registry last took something.
    last: AtomicU64,
    waits_for_source: AtomicBool,
    given_up: AtomicBool,
}

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            waits_for_source: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Ready when the registry has taken nothing for as long as `patience`.
    async fn silence(&self, patience: Duration) {
        loop {
            tokio::time::sleep(patience / 4).await;
            if self.waits_for_source.load(Ordering::Relaxed) {
                self.touch();
            }
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            if self.began.elapsed().saturating_sub(last) > patience {
                return;
            }
        }
    }
}

impl BlobUpload {
    /// Begins an upload (end-4a).
    pub async fn begin(repository: Repository) -> Result<Self, ClientError> {
        let session = repository.begin_upload().await?;
        Ok(Self { repository, session, offset: 0 })
    }

    /// Goes on with an upload that was begun before; `None` when the registry does not know it any more.
    pub async fn resume(repository: Repository, session: Url) -> Result<Option<Self>, ClientError> {
        match repository.upload_status(&session).await {
            Ok((offset, session)) => Ok(Some(Self { repository, session, offset })),
            Err(ClientError::NotFound { .. } | ClientError::Protocol { .. } | ClientError::Status { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the upload goes on, to be kept for [`BlobUpload::resume`].
    #[must_use]
    pub fn session(&self) -> &Url {
        &self.session
    }

    /// How many bytes the registry has.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Sends everything that the registry does not have yet.
    pub async fn send(&mut self, feed: BlobFeed) -> Result<(), UploadError> {
        let total = feed.total;
        let feed = Arc::new(Mutex::new(feed));
        let mut backoff = Backoff::new(self.repository.client.retries());
        while self.offset < total {
            feed.lock().await.seek(self.offset).await?;
            let activity = Arc::new(Activity::new());
            let length = PATCH.min(total - self.offset);
            let before = self.offset;
            let error = match self.patch(&feed, length, &activity).await {
                Ok(()) => {
                    backoff.progressed();
                    continue;
                }
                Err(error) => error,
            };
            if activity.given_up.load(Ordering::Relaxed) {
                return Err(UploadError::Abandoned);
            }
            let error = Self::mind(error)?;
            backoff.after(error).await?;
            (self.offset, self.session) = match self.repository.upload_status(&self.session).await {
                Ok(found) => found,
                // The registry has forgotten the session: from the beginning.
                Err(ClientError::NotFound { .. }) => (0, self.repository.begin_upload().await?),
                Err(error) => return Err(error.into()),
            };
            if self.offset > before {
                backoff.progressed();
            }
        }
        Ok(())
    }

    /// Sends the next bytes of a blob whose size is not known.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        let (start, total) = (self.offset, self.offset + bytes.len() as u64);
        let mut backoff = Backoff::new(self.repository.client.retries());
        while self.offset < total {
            let sent = usize::try_from(self.offset - start).unwrap_or(0);
            let mut request = self.request(total - self.offset);
            *request.body_mut() = Some(bytes.slice(sent..).into());
            let error = match tokio::time::timeout(COMMIT_PATIENCE, self.acknowledge(request, total)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => {
                    let url = super::transport::redacted(&self.session);
                    ClientError::Silent { url, patience: COMMIT_PATIENCE }
                }
            };
            let error = Self::mind(error)?;
            backoff.after(error).await?;
            (self.offset, self.session) = self.repository.upload_status(&self.session).await?;
            if self.offset < start || self.offset > total {
                return Err(ClientError::Protocol {
                    url: super::transport::redacted(&self.session),
                    reason: "the registry lost a part of the upload".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Makes transient of an error what another status request can mend.
    fn mind(error: ClientError) -> Result<ClientError, ClientError> {
        match error {
            // The token ended midway, or the registry has another offset than we think: asking for the status
            // answers both.
            ClientError::Status {
                url,
                status: StatusCode::UNAUTHORIZED | StatusCode::RANGE_NOT_SATISFIABLE,
                message,
                ..
            } => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Ok(ClientError::Status { url, status, message, retry_after: Some(Duration::ZERO) })
            }
            error if error.is_transient() => Ok(error),
            error => Err(error),
        }
    }

    async fn patch(
        &mut self,
        feed: &Arc<Mutex<BlobFeed>>,
        length: u64,
        activity: &Arc<Activity>,
    ) -> Result<(), ClientError> {
        let pieces =
            stream::try_unfold((Arc::clone(feed), length, Arc::clone(activity)), |state| async move {
                let (feed, left, activity) = state;
                activity.touch();
                if left == 0 {
                    return Ok(None);
                }
                activity.waits_for_source.store(true, Ordering::Relaxed);
                let piece = feed.lock().await.next(left).await;
                activity.waits_for_source.store(false, Ordering::Relaxed);
                activity.touch();
                let Some(piece) = piece else {
                    activity.given_up.store(true, Ordering::Relaxed);
                    return Err(std::io::Error::other("the source ended"));
                };
                let left = left - piece.len() as u64;
                Ok(Some((piece, (feed, left, activity))))
            });
        let mut request = self.request(length);
        *request.body_mut() = Some(Body::wrap_stream(pieces));
        let patience = self.repository.client.transport().patience();
        let end = self.offset + length;
        let session = super::transport::redacted(&self.session);
        tokio::select! {
            outcome = self.acknowledge(request, end) => outcome,
            () = activity.silence(patience) => Err(ClientError::Silent { url: session, patience }),
        }
    }

    /// A PATCH of the next `length` bytes, still without them.
    fn request(&self, length: u64) -> Request {
        let mut request = Request::new(Method::PATCH, self.session.clone());
        for (name, text) in [
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
            (CONTENT_LENGTH, length.to_string()),
            (CONTENT_RANGE, format!("{}-{}", self.offset, self.offset + length - 1)),
        ] {
            insert(&mut request, name, &text);
        }
        request
    }

    /// Sends a PATCH that ends before `end`, and takes over what the registry says about it.
    async fn acknowledge(&mut self, request: Request, end: u64) -> Result<(), ClientError> {
        let response = self.repository.send_upload(request).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(response.into_error().await);
        }
        self.offset = acknowledged(&response).unwrap_or(end);
        self.session = location(&response)?;
        Ok(())
    }

    /// Makes the upload the blob `digest` (end-6). The registry checks it.
    pub async fn finish(&self, digest: &Digest) -> Result<(), ClientError> {
        let mut url = self.session.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut backoff = Backoff::new(self.repository.client.retries());
        loop {
            let mut request = Request::new(Method::PUT, url.clone());
            insert(&mut request, CONTENT_LENGTH, "0");
            let sent = tokio::time::timeout(COMMIT_PATIENCE, self.repository.send_upload(request)).await;
            let error = match sent {
                Ok(Ok(response)) if response.status() == StatusCode::CREATED => return Ok(()),
                Ok(Ok(response)) => response.into_error().await,
                Ok(Err(error)) => error,
                Err(_) => {
                    ClientError::Silent { url: super::transport::redacted(&url), patience: COMMIT_PATIENCE }
                }
            };
            // An answer may have been lost on the way.
            if !is_verdict(&error) && self.repository.has_blob(digest).await? {
                return Ok(());
            }
            let error = Self::mind(error)?;
            backoff.after(error).await?;
        }
    }

    /// Ends the upload without a blob.
    pub async fn cancel(self) -> Result<(), ClientError> {
        self.repository.cancel_upload(&self.session).await
    }
}

/// Whether the registry has judged what it was sent.
fn is_verdict(error: &ClientError) -> bool {
    matches!(error, ClientError::Status { status, .. } if *status == StatusCode::BAD_REQUEST)
}

fn insert(request: &mut Request, name: HeaderName, text: &str) {
    // Numbers and constants are always valid.
    if let Ok(value) = HeaderValue::from_str(text) {
        request.headers_mut().insert(name, value);
    }
}

/// How many bytes the registry says that it has.
fn acknowledged(response: &Response) -> Option<u64> {
    let last: u64 = response.header(&RANGE)?.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    last.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(pieces: &[usize]) -> BlobFeed {
        let total = pieces.iter().sum::<usize>() as u64;
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        let mut next = 0u8;
        for &length in pieces {
            let piece: Vec<u8> = (0..length)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            sender.try_send(piece.into()).unwrap();
        }
        BlobFeed::new(receiver, total, Arc::default())
    }

    async fn read(feed: &mut BlobFeed, count: u64) -> Vec<u8> {
        let mut read = Vec::new();
        while (read.len() as u64) < count {
            read.extend_from_slice(&feed.next(count - read.len() as u64).await.unwrap());
        }
        read
    }

    #[tokio::test]
    async fn bytes_that_were_sent_can_be_sent_again() {
        let mut feed = feed(&[5, 1, 7, 3]);
        let whole = read(&mut feed, 16).await;
        assert_eq!(whole, (1..=16).collect::<Vec<u8>>());
        for position in [0, 4, 5, 6, 13, 15] {
            feed.seek(position).await.unwrap();
            assert_eq!(read(&mut feed, 16 - position).await, whole[usize::try_from(position).unwrap()..]);
        }
    }

    #[tokio::test]
    async fn bytes_that_the_registry_has_are_passed_over() {
        let mut feed = feed(&[5, 1, 7, 3]);
        feed.seek(9).await.unwrap();
        assert_eq!(read(&mut feed, 2).await, [10, 11]);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let piece = 4 << 20;
        let mut feed = feed(&[piece; 20]);
        feed.seek(80 << 20).await.unwrap();
        assert!(feed.kept_bytes < REPLAY + piece, "{}", feed.kept_bytes);
        assert!(matches!(feed.seek(0).await, Err(UploadError::Rewind)), "the first bytes are gone");
        feed.seek((80 << 20) - REPLAY as u64).await.unwrap();
    }
}
