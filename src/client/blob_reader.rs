//! [`BlobReader`]: a blob from its first byte to its last, whatever happens to the connections on the way.
//!
//! Bytes come in order. With several connections the next ranges are fetched while one is read; that
//! helps where one connection is slower than the disk and the hash behind it: far servers, TLS on one
//! core, object stores. Memory: a range per connection. The bytes are **not** verified here; whoever takes
//! them hashes them anyway.

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::StatusCode;

use super::{Backoff, ClientError, Repository, Response};
use crate::oci::Digest;

/// How many ranges are fetched at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections(pub usize);

impl Default for Connections {
    fn default() -> Self {
        Self(4)
    }
}

/// One range.
const RANGE: u64 = 8 << 20;

/// Reads one blob.
pub struct BlobReader {
    pieces: BoxStream<'static, Result<Bytes, ClientError>>,
}

impl BlobReader {
    /// Begins to read a blob of `size` bytes.
    pub async fn open(
        repository: Repository,
        digest: Digest,
        size: u64,
        connections: Connections,
    ) -> Result<Self, ClientError> {
        let blob = Blob { repository, digest, size };
        if connections.0 < 2 || size < 2 * RANGE {
            return Ok(Self { pieces: blob.in_sequence(None) });
        }
        let mut backoff = Backoff::new(blob.repository.client.retries());
        let first = loop {
            match blob.repository.blob(&blob.digest, 0, Some(RANGE)).await {
                Ok(response) => break response,
                Err(error) => backoff.after(error).await?,
            }
        };
        let pieces = if first.status() == StatusCode::PARTIAL_CONTENT {
            blob.in_ranges(connections)
        } else {
            blob.in_sequence(Some(first))
        };
        Ok(Self { pieces })
    }

    /// The next bytes; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.pieces.try_next().await
    }
}

#[derive(Clone)]
struct Blob {
    repository: Repository,
    digest: Digest,
    size: u64,
}

/// A read of a run of bytes that goes on behind a broken connection.
struct Run {
    blob: Blob,
    position: u64,
    end: u64,
    /// An answer that stands at `position`, less `skip` bytes that were seen already.
    response: Option<Response>,
    skip: u64,
    backoff: Backoff,
}

impl Blob {
    fn run(self, start: u64, end: u64, response: Option<Response>) -> Run {
        let backoff = Backoff::new(self.repository.client.retries());
        Run { blob: self, position: start, end, response, skip: 0, backoff }
    }

    fn in_sequence(self, response: Option<Response>) -> BoxStream<'static, Result<Bytes, ClientError>> {
        let size = self.size;
        stream::try_unfold(self.run(0, size, response), |mut run| async move {
            Ok(run.next().await?.map(|piece| (piece, run)))
        })
        .boxed()
    }

    fn in_ranges(self, connections: Connections) -> BoxStream<'static, Result<Bytes, ClientError>> {
        let size = self.size;
        stream::iter((0..size.div_ceil(RANGE)).map(move |i| {
            let mut run = self.clone().run(i * RANGE, ((i + 1) * RANGE).min(size), None);
            async move {
                let mut pieces = Vec::new();
                while let Some(piece) = run.next().await? {
                    pieces.push(Ok(piece));
                }
                Ok::<_, ClientError>(stream::iter(pieces))
            }
        }))
        .buffered(connections.0)
        .try_flatten()
        .boxed()
    }
}

impl Run {
    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while self.position < self.end {
            let error = match self.piece().await {
                Ok(Some(piece)) => {
                    self.backoff.progressed();
                    self.position += piece.len() as u64;
                    return Ok(Some(piece));
                }
                Ok(None) => continue,
                Err(error) => error,
            };
            self.response = None;
            self.backoff.after(error).await?;
        }
        Ok(None)
    }

    /// The next piece of the answer, or `None` for bytes that were seen already.
    async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        let response = if let Some(response) = &mut self.response {
            response
        } else {
            let end = (self.end < self.blob.size).then_some(self.end);
            let response = self.blob.repository.blob(&self.blob.digest, self.position, end).await?;
            self.skip = start_of(&response, self.position)?;
            self.response.insert(response)
        };
        let Some(mut piece) = response.piece().await? else {
            let url = super::transport::redacted(response.url());
            return Err(ClientError::Short { url, got: self.position, expected: self.end });
        };
        let seen = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        self.skip -= seen as u64;
        bytes::Buf::advance(&mut piece, seen);
        let wanted = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        piece.truncate(wanted);
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// How many bytes of the answer lie before `position`.
fn start_of(response: &Response, position: u64) -> Result<u64, ClientError> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(position);
    }
    match response.content_range() {
        Some((start, _)) if start <= position => Ok(position - start),
        _ => Err(response.protocol("a range that was not asked for")),
    }
}
