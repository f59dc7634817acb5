//! [`BlobUpload`]: a blob of known size and still unknown digest, to a registry, over broken connections.
//!
//! The blob goes out in a few long PATCH requests. The last bytes are kept ([`BlobFeed`]), so that after a broken
//! connection the upload goes on where the registry says that it stopped. A registry that lost more than
//! that (it was killed) asks for a [`UploadError::Rewind`]: whoever makes the bytes makes them again, and
//! those that arrived are passed over. The session's URL is all that another process needs to go on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Body, Method, Request, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::delta::{DeltaWriter, Ranges};
use super::exchange::{location, received};
use super::repository::Session;
use super::transport::redacted;
use super::{Backoff, BlobFeed, ClientError, Held, Repository};
use crate::chunk::DELTA;
use crate::oci::Digest;

/// Bytes in one PATCH. Long, because each costs the registry a record; not endless, because what a registry
/// acknowledged with 202 is what it will still have after it was killed.
const PATCH: u64 = 1 << 30;

/// For how long a registry may be busy with what it copies: of a delta it gets in a moment what takes it a while.
const COPY_PATIENCE: Duration = Duration::from_mins(5);

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
    /// The registry does not take what it has for what it has, any more. The bytes have to be made again, as after
    /// [`UploadError::Rewind`], and all of them sent.
    #[error("the registry wants all bytes of the upload")]
    WantsAll,
    /// The bytes ended early: whoever makes them knows why.
    #[error("the upload was given up")]
    Abandoned,
}

/// An upload session.
#[derive(Debug, Clone)]
pub struct BlobUpload {
    repository: Repository,
    session: Session,
    /// What the registry had in other blobs, of what it was sent; it may not have got all of that.
    copied: Ranges,
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
        Ok(Self { repository, session, copied: Ranges::default() })
    }

    /// Goes on with an upload that was begun before; `None` when the registry does not know it any more, or does not
    /// answer about it: what is wrong with the registry itself shows when another is begun.
    pub async fn resume(repository: Repository, session: Url) -> Option<Self> {
        match repository.upload_status(&session).await {
            Ok(session) => Some(Self { repository, session, copied: Ranges::default() }),
            Err(error) => {
                tracing::debug!(%error, "an upload that was begun cannot be gone on with");
                None
            }
        }
    }

    /// Where the upload goes on, to be kept for [`BlobUpload::resume`].
    #[must_use]
    pub fn session(&self) -> &Url {
        &self.session.url
    }

    /// How many bytes the registry has.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.session.offset
    }

    /// How many bytes were not sent, because the registry has them in other blobs.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.copied.before(self.session.offset)
    }

    /// Whether the registry takes less than all bytes of a blob, where it has the others.
    #[must_use]
    pub fn takes_delta(&self) -> bool {
        self.session.takes_delta
    }

    /// Sends everything that the registry does not have yet. `remember` is told each new place where the upload goes
    /// on.
    pub async fn send(
        &mut self,
        mut feed: BlobFeed,
        remember: &mut (dyn FnMut(&Url) + Send),
    ) -> Result<(), UploadError> {
        match self.send_all(&mut feed, remember).await {
            // To make the same again would lead to the same.
            Err(UploadError::Rewind) if feed.is_plain() => Err(UploadError::WantsAll),
            outcome => outcome,
        }
    }

    async fn send_all(
        &mut self,
        feed: &mut BlobFeed,
        remember: &mut (dyn FnMut(&Url) + Send),
    ) -> Result<(), UploadError> {
        let total = feed.total();
        let mut backoff = Backoff::new(self.repository.client.retries());
        if self.session.offset > total {
            // It was begun with other bytes.
            self.repository.cancel_upload(&self.session.url).await?;
            self.session = self.repository.begin_upload().await?;
            remember(&self.session.url);
        }
        while self.session.offset < total {
            feed.seek(self.session.offset).await?;
            let before = self.session.offset;
            let error = match self.patch(feed).await {
                Ok(()) => {
                    backoff.progressed();
                    remember(&self.session.url);
                    continue;
                }
                Err(UploadError::Client(error)) => error,
                Err(error) => return Err(error),
            };
            if self.sends_delta(feed) && is_refusal(&error) {
                tracing::info!(%error, "sending all bytes, also those that the registry has");
                feed.be_plain();
            } else {
                backoff.after(Self::mind(error)?).await?;
            }
            self.session = match self.repository.upload_status(&self.session.url).await {
                Ok(session) if session.offset <= total => session,
                // The registry has forgotten the session, or says so only to whoever has its latest URL.
                Ok(_)
                | Err(
                    ClientError::NotFound { .. } | ClientError::Protocol { .. } | ClientError::Status { .. },
                ) => self.repository.begin_upload().await?,
                Err(error) => return Err(error.into()),
            };
            remember(&self.session.url);
            if self.session.offset > before {
                backoff.progressed();
            }
        }
        // Whoever makes the bytes makes all of them, also those that the registry had.
        feed.seek(total).await
    }

    /// Sends the next bytes of a blob whose size is not known.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        let feed = BlobFeed::of_bytes(bytes, self.session.offset);
        match self.send(feed, &mut |_| {}).await {
            Ok(()) => Ok(()),
            Err(UploadError::Client(error)) => Err(error),
            Err(UploadError::Rewind | UploadError::WantsAll | UploadError::Abandoned) => {
                Err(ClientError::Protocol {
                    url: redacted(&self.session.url),
                    reason: "the registry lost a part of the upload".to_owned(),
                })
            }
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

    fn sends_delta(&self, feed: &BlobFeed) -> bool {
        self.session.takes_delta && feed.held().is_some()
    }

    /// Sends the next bytes, as many as one request is good for.
    ///
    /// The request gets them one by one through a channel that ends with this call: a server that answers early or
    /// not at all leaves a body behind that goes on by itself, and must not take what the next request needs.
    async fn patch(&mut self, feed: &mut BlobFeed) -> Result<(), UploadError> {
        let start = self.session.offset;
        let held = feed.held().filter(|_| self.session.takes_delta);
        let mut delta = held.map(|held| DeltaWriter::new(held, start));
        let sent = self.patch_as(feed, delta.as_mut()).await;
        // Whatever the answer, the registry may have got it.
        self.copied.truncate(start);
        if let Some(delta) = delta {
            self.copied.append(delta.into_copied());
        }
        sent
    }

    async fn patch_as(
        &mut self,
        feed: &mut BlobFeed,
        mut delta: Option<&mut DeltaWriter>,
    ) -> Result<(), UploadError> {
        let start = self.session.offset;
        let length = PATCH.min(feed.total() - start);
        let end = start + length;
        let held = feed.held().filter(|_| delta.is_some());
        let sources = held.as_deref().map(Held::repositories).unwrap_or_default();
        let (body, pieces) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let mut request = Request::new(Method::PATCH, self.session.url.clone());
        let content_type = if delta.is_some() { DELTA } else { "application/octet-stream" };
        insert(&mut request, CONTENT_TYPE, content_type);
        insert(&mut request, CONTENT_RANGE, &format!("{start}-{}", end - 1));
        if delta.is_none() {
            insert(&mut request, CONTENT_LENGTH, &length.to_string());
        }
        // An empty piece is the end of the body. Without one it was given up, which must not look like an end.
        let next = async |mut pieces: mpsc::Receiver<_>| {
            let given_up = || Err(std::io::Error::other("the upload was given up"));
            let piece: Result<Bytes, std::io::Error> = pieces.recv().await.unwrap_or_else(given_up);
            piece.as_ref().map_or(true, |bytes| !bytes.is_empty()).then_some((piece, pieces))
        };
        *request.body_mut() = Some(Body::wrap_stream(stream::unfold(pieces, next)));
        let patience = self.repository.client.transport().patience();
        let patience = if delta.is_some() { patience.max(COPY_PATIENCE) } else { patience };
        let activity = Mutex::new(Activity { last: Instant::now(), waits_for_source: false });
        let pump = async {
            Self::pump(feed, length, delta.take(), &body, &activity).await?;
            Activity::touch(&activity, false);
            // The answer is what is waited for.
            std::future::pending::<Result<std::convert::Infallible, UploadError>>().await
        };
        let silent = || ClientError::Silent { url: redacted(&self.session.url), patience };
        let response = tokio::select! {
            response = self.repository.send_upload(request, &sources) => response?,
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
        if offset <= start || offset > end {
            let reason = format!("it was sent the bytes up to {end} and says that it has {offset}");
            return Err(response.protocol(reason).into());
        }
        self.session.offset = offset;
        self.session.url = location(&response)?;
        Ok(())
    }

    /// Hands the next `length` bytes to a request, until it takes no more.
    async fn pump(
        feed: &mut BlobFeed,
        length: u64,
        mut delta: Option<&mut DeltaWriter>,
        body: &mpsc::Sender<Result<Bytes, std::io::Error>>,
        activity: &Mutex<Activity>,
    ) -> Result<(), UploadError> {
        let mut left = length;
        while left > 0 {
            Activity::touch(activity, true);
            let piece = feed.next(left).await?;
            Activity::touch(activity, false);
            left -= piece.length();
            let out = match &mut delta {
                Some(delta) => delta.push(piece),
                None => [piece.into_bytes().ok_or(UploadError::Rewind)?, Bytes::new()],
            };
            for bytes in out.into_iter().filter(|bytes| !bytes.is_empty()) {
                if body.send(Ok(bytes)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if let Some(delta) = delta {
            let rest = delta.finish();
            if !rest.is_empty() && body.send(Ok(rest)).await.is_err() {
                return Ok(());
            }
        }
        let _ = body.send(Ok(Bytes::new())).await;
        Ok(())
    }

    /// Makes the upload the blob `digest` (end-6). The registry checks it.
    pub async fn finish(&self, digest: &Digest) -> Result<(), ClientError> {
        let mut url = self.session.url.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut backoff = Backoff::new(self.repository.client.retries());
        loop {
            let error = match self.repository.commit_upload(url.clone()).await {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(()),
                Ok(response) => response.into_error().await,
                Err(error) => error,
            };
            // An answer may have been lost on the way.
            if !error.is_wrong_digest() && self.repository.has_blob(digest).await? {
                return Ok(());
            }
            backoff.after(error).await?;
        }
    }

    /// Ends the upload without a blob.
    pub async fn cancel(self) -> Result<(), ClientError> {
        self.repository.cancel_upload(&self.session.url).await
    }
}

/// Whether the registry will not take a request, however often it is sent. What the token and the offset are about is asked
/// anew in any case.
fn is_refusal(error: &ClientError) -> bool {
    let ClientError::Status { status, .. } = error else { return false };
    let other = [
        StatusCode::UNAUTHORIZED,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::RANGE_NOT_SATISFIABLE,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !other.contains(status)
}

fn insert(request: &mut Request, name: HeaderName, text: &str) {
    // Numbers and constants are always valid.
    if let Ok(value) = HeaderValue::from_str(text) {
        request.headers_mut().insert(name, value);
    }
}
