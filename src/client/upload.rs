//! [`BlobUpload`]: a blob of known size and still unknown digest, to a registry, over broken connections.
//!
//! The blob goes out in a few long PATCH requests. The last [`REPLAY`] bytes are kept, so that after a broken
//! connection the upload goes on where the registry says that it stopped. A registry that lost more than
//! that (it was killed) asks for a [`UploadError::Rewind`]: whoever makes the bytes makes them again, and
//! those that arrived are passed over. The session's URL is all that another process needs to go on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Body, Method, Request, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::exchange::{location, received};
use super::transport::redacted;
use super::{Backoff, ClientError, Repository};
use crate::oci::Digest;

/// Bytes in one PATCH. Long, because each costs the registry a record; not endless, because what a registry
/// acknowledged with 202 is what it will still have after it was killed.
const PATCH: u64 = 1 << 30;

/// Bytes that are kept to be sent again. What a broken connection loses is in the buffers on the way.
const REPLAY: usize = 32 << 20;

/// Bytes that are handed to the connection at once.
const FRAME: usize = 1 << 20;

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

    /// The bytes of a blob from `start` on that are there already, and are all for now.
    fn of_bytes(bytes: Bytes, start: u64) -> Self {
        let (_, pieces) = mpsc::channel(1);
        let total = start + bytes.len() as u64;
        let kept_bytes = bytes.len();
        let kept = VecDeque::from([bytes]);
        Self { pieces, total, kept, kept_bytes, taken: total, position: start, sent: Arc::default() }
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

    /// The next bytes, at most [`FRAME`] and `limit`. Nothing is lost when the future is dropped.
    async fn next(&mut self, limit: u64) -> Option<Bytes> {
        if self.position == self.taken {
            self.take().await?;
        }
        let mut start = self.taken;
        // From the back: unless bytes are sent again, the next ones are in the last piece.
        for piece in self.kept.iter().rev() {
            start -= piece.len() as u64;
            if start <= self.position {
                let mut found = piece.clone();
                found.advance(usize::try_from(self.position - start).unwrap_or(0));
                found.truncate(FRAME.min(usize::try_from(limit).unwrap_or(FRAME)));
                self.position += found.len() as u64;
                self.sent.store(self.position, Ordering::Relaxed);
                return Some(found);
            }
        }
        None
    }
}

/// When the registry last took something, so that a slow registry is told from a slow source.
#[derive(Debug)]
struct Activity {
    last: Instant,
    waits_for_source: bool,
}

impl Activity {
    /// Ready when the registry has taken nothing for as long as `patience`.
    async fn silence(activity: &Mutex<Self>, patience: Duration) {
        loop {
            tokio::time::sleep(patience / 4).await;
            let mut activity = activity.lock().unwrap_or_else(PoisonError::into_inner);
            if activity.waits_for_source {
                activity.last = Instant::now();
            }
            if activity.last.elapsed() > patience {
                return;
            }
        }
    }

    fn touch(activity: &Mutex<Self>, waits_for_source: bool) {
        *activity.lock().unwrap_or_else(PoisonError::into_inner) =
            Self { last: Instant::now(), waits_for_source };
    }
}

impl BlobUpload {
    /// Begins an upload (end-4a).
    pub async fn begin(repository: Repository) -> Result<Self, ClientError> {
        let session = repository.begin_upload().await?;
        Ok(Self { repository, session, offset: 0 })
    }

    /// Goes on with an upload that was begun before; `None` when the registry does not know it any more, or does not
    /// answer about it: what is wrong with the registry itself shows when another is begun.
    pub async fn resume(repository: Repository, session: Url) -> Option<Self> {
        match repository.upload_status(&session).await {
            Ok((offset, session)) => Some(Self { repository, session, offset }),
            Err(error) => {
                tracing::debug!(%error, "an upload that was begun cannot be gone on with");
                None
            }
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

    /// Sends everything that the registry does not have yet. `remember` is told each new place where the upload goes
    /// on.
    pub async fn send(
        &mut self,
        mut feed: BlobFeed,
        remember: &mut (dyn FnMut(&Url) + Send),
    ) -> Result<(), UploadError> {
        let total = feed.total;
        let mut backoff = Backoff::new(self.repository.client.retries());
        if self.offset > total {
            // It was begun with other bytes.
            self.repository.cancel_upload(&self.session).await?;
            (self.offset, self.session) = (0, self.repository.begin_upload().await?);
            remember(&self.session);
        }
        while self.offset < total {
            feed.seek(self.offset).await?;
            let (before, length) = (self.offset, PATCH.min(total - self.offset));
            let error = match self.patch(&mut feed, length).await {
                Ok(()) => {
                    backoff.progressed();
                    remember(&self.session);
                    continue;
                }
                Err(UploadError::Client(error)) => error,
                Err(error) => return Err(error),
            };
            backoff.after(Self::mind(error)?).await?;
            match self.repository.upload_status(&self.session).await {
                Ok((offset, session)) if offset <= total => (self.offset, self.session) = (offset, session),
                // The registry has forgotten the session, or says so only to whoever has its latest URL.
                Ok(_)
                | Err(
                    ClientError::NotFound { .. } | ClientError::Protocol { .. } | ClientError::Status { .. },
                ) => {
                    (self.offset, self.session) = (0, self.repository.begin_upload().await?);
                }
                Err(error) => return Err(error.into()),
            }
            remember(&self.session);
            if self.offset > before {
                backoff.progressed();
            }
        }
        // Whoever makes the bytes makes all of them, also those that the registry had.
        feed.seek(total).await
    }

    /// Sends the next bytes of a blob whose size is not known.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        let feed = BlobFeed::of_bytes(bytes, self.offset);
        match self.send(feed, &mut |_| {}).await {
            Ok(()) => Ok(()),
            Err(UploadError::Client(error)) => Err(error),
            Err(UploadError::Rewind | UploadError::Abandoned) => Err(ClientError::Protocol {
                url: redacted(&self.session),
                reason: "the registry lost a part of the upload".to_owned(),
            }),
        }
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

    /// Sends the next `length` bytes.
    ///
    /// The request gets them one by one through a channel that ends with this call: a server that answers early or
    /// not at all leaves a body behind that goes on by itself, and must not take what the next request needs.
    async fn patch(&mut self, feed: &mut BlobFeed, length: u64) -> Result<(), UploadError> {
        let (body, pieces) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let mut request = Request::new(Method::PATCH, self.session.clone());
        let end = self.offset + length;
        for (name, text) in [
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
            (CONTENT_LENGTH, length.to_string()),
            (CONTENT_RANGE, format!("{}-{}", self.offset, end - 1)),
        ] {
            insert(&mut request, name, &text);
        }
        let pieces = stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) });
        *request.body_mut() = Some(Body::wrap_stream(pieces));
        let activity = Mutex::new(Activity { last: Instant::now(), waits_for_source: false });
        let pump = async {
            let mut left = length;
            while left > 0 {
                Activity::touch(&activity, true);
                let piece = feed.next(left).await.ok_or(UploadError::Abandoned)?;
                Activity::touch(&activity, false);
                left -= piece.len() as u64;
                if body.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
            Activity::touch(&activity, false);
            // The answer is what is waited for.
            std::future::pending::<Result<std::convert::Infallible, UploadError>>().await
        };
        let patience = self.repository.client.transport().patience();
        let silent = || ClientError::Silent { url: redacted(&self.session), patience };
        let response = tokio::select! {
            response = self.repository.send_upload(request) => response?,
            ended = pump => match ended {
                Ok(never) => match never {},
                Err(error) => return Err(error),
            },
            () = Activity::silence(&activity, patience) => return Err(silent().into()),
        };
        if response.status() != StatusCode::ACCEPTED {
            // Should the body not be over yet, it is over now, and with an error.
            let _ = body.try_send(Err(std::io::Error::other("the request was answered early")));
            return Err(response.into_error().await.into());
        }
        let offset = received(&response).unwrap_or(end);
        if offset <= self.offset || offset > end {
            let reason = format!("it was sent the bytes up to {end} and says that it has {offset}");
            return Err(response.protocol(reason).into());
        }
        self.offset = offset;
        self.session = location(&response)?;
        Ok(())
    }

    /// Makes the upload the blob `digest` (end-6). The registry checks it.
    pub async fn finish(&self, digest: &Digest) -> Result<(), ClientError> {
        let mut url = self.session.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut backoff = Backoff::new(self.repository.client.retries());
        loop {
            let error = match self.repository.commit_upload(url.clone()).await {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(()),
                Ok(response) => response.into_error().await,
                Err(error) => error,
            };
            // An answer may have been lost on the way.
            if !is_verdict(&error) && self.repository.has_blob(digest).await? {
                return Ok(());
            }
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
