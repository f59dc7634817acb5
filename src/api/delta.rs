//! Uploads of which the registry has much already: bodies of [frames](crate::chunk::Frame), as what they stand for.
//!
//! The engine is given bytes and hashes, cuts and stores them as ever, so a delta is another way to send a blob and no other
//! kind of blob. A source is read as by a GET: whoever may not read a blob cannot copy from it either.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::asker::caller;
use super::body::Incoming;
use crate::auth::{Action, Caller};
use crate::chunk::{DELTA, Frame, zeros};
use crate::oci::{Digest, RepositoryName};
use crate::registry::{BlobReader, Body, BodyError, Error, Registry, StoreError};

/// What the body of an upload may be, for `Accept-Patch`.
pub(super) const ACCEPTED: &str = "application/octet-stream, application/vnd.dvcr.delta.v1";

/// Whether the body of a request is a delta.
pub(super) fn is_delta(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split_once(';').map_or(content_type, |(media_type, _)| media_type);
    media_type.trim().eq_ignore_ascii_case(DELTA)
}

/// The bytes of the blob that come with a request, whether they are sent as they are or as a delta.
pub(super) fn content(registry: &Arc<Registry>, request: &Parts, body: &mut Incoming) -> Body {
    let sent = body.split();
    if is_delta(&request.headers) {
        expand(Arc::clone(registry), caller(request).cloned(), sent)
    } else {
        sent
    }
}

/// What a body of frames stands for.
fn expand(registry: Arc<Registry>, caller: Option<Caller>, body: Body) -> Body {
    let expander =
        Expander { registry, caller, body, come: BytesMut::new(), source: None, current: Current::Data(0) };
    let pieces = stream::try_unfold(expander, async |mut expander| {
        Ok(expander.next().await?.map(|piece| (piece, expander)))
    });
    pieces.fuse().boxed()
}

struct Expander {
    registry: Arc<Registry>,
    /// Who sends it.
    caller: Option<Caller>,
    body: Body,
    /// What has come and was not looked at.
    come: BytesMut,
    source: Option<Source>,
    current: Current,
}

/// What copies are out of.
struct Source {
    name: String,
    blob: BlobReader,
}

/// The rest of the frame that is being expanded.
enum Current {
    /// So many bytes of the body.
    Data(u64),
    /// What is not in the body.
    Made(Body),
}

impl Expander {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match &mut self.current {
                Current::Data(0) => match self.frame().await? {
                    Some(frame) => self.begin(frame).await?,
                    None => return Ok(None),
                },
                Current::Data(_) => return self.data().await.map(Some),
                Current::Made(pieces) => match pieces.next().await {
                    Some(piece) => return piece.map(Some),
                    None => self.current = Current::Data(0),
                },
            }
        }
    }

    /// The next frame; `None` at the end.
    async fn frame(&mut self) -> Result<Option<Frame>, BodyError> {
        loop {
            match Frame::decode(&mut self.come) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => return Err(refused(format!("the body is no delta: {error}"))),
            }
            match self.body.next().await {
                Some(piece) => self.come.extend_from_slice(&piece?),
                None if self.come.is_empty() => return Ok(None),
                None => return Err(refused("the delta ends in the middle of a frame".to_owned())),
            }
        }
    }

    async fn begin(&mut self, frame: Frame) -> Result<(), BodyError> {
        match frame {
            Frame::Data(length) => self.current = Current::Data(length),
            Frame::Zeros(length) => self.current = Current::Made(stream::iter(zeros(length).map(Ok)).boxed()),
            Frame::Source(name) => {
                self.source = Some(Source::open(&self.registry, self.caller.as_ref(), name).await?);
            }
            Frame::Copy { offset, length } => {
                let source = self.source.as_ref();
                let source =
                    source.ok_or_else(|| refused("the delta copies and names no source".to_owned()))?;
                self.current = Current::Made(source.read(offset, length)?);
            }
        }
        Ok(())
    }

    /// The next bytes of a frame of data.
    async fn data(&mut self) -> Result<Bytes, BodyError> {
        let Current::Data(left) = &mut self.current else { return Ok(Bytes::new()) };
        if self.come.is_empty() {
            let piece = match self.body.next().await {
                Some(piece) => piece?,
                None => return Err(refused("the delta ends in the middle of its data".to_owned())),
            };
            if piece.len() as u64 <= *left {
                *left -= piece.len() as u64;
                return Ok(piece);
            }
            self.come.extend_from_slice(&piece);
        }
        let now = usize::try_from(*left).map_or(self.come.len(), |left| left.min(self.come.len()));
        *left -= now as u64;
        Ok(self.come.split_to(now).freeze())
    }
}

impl Source {
    async fn open(registry: &Registry, caller: Option<&Caller>, name: String) -> Result<Self, BodyError> {
        let parsed = name.rsplit_once('@').and_then(|(repository, digest)| {
            Some((repository.parse::<RepositoryName>().ok()?, digest.parse::<Digest>().ok()?))
        });
        let Some((repository, digest)) = parsed else {
            return Err(refused(format!("a source must read <repository>@<digest>, not {name:?}")));
        };
        let may = caller.is_some_and(|caller| caller.may(Action::Pull, repository.as_str()));
        // What the caller may not pull answers as what is not there, and is not looked up: the time would tell.
        let found = if may {
            registry.open_blob(&repository, &digest).await
        } else {
            Err(Error::BlobUnknown { name: repository, digest })
        };
        match found {
            Ok(blob) => Ok(Self { name, blob }),
            Err(error @ (Error::Store(_) | Error::Full)) => Err(BodyError::Unavailable(error.to_string())),
            Err(error) => Err(refused(format!("the delta cannot copy from {name}: {error}"))),
        }
    }

    fn read(&self, offset: u64, length: u64) -> Result<Body, BodyError> {
        let (name, size) = (self.name.clone(), self.blob.size());
        let end = offset.checked_add(length).filter(|end| *end <= size).ok_or_else(|| {
            refused(format!("{name} has {size} bytes, and the delta copies {length} from byte {offset} on"))
        })?;
        let unreadable = move |error: StoreError| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                source = name,
                "a delta copies what cannot be read"
            );
            let reason = format!("the delta copies from {name}, which cannot be read");
            if error.is_lost() { refused(reason) } else { BodyError::Unavailable(reason) }
        };
        Ok(self.blob.stream(offset..end).map_err(unreadable).boxed())
    }
}

fn refused(reason: String) -> BodyError {
    BodyError::Refused(reason)
}
