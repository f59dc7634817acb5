//! [`Source`]: where the bytes of a disk come from.
//!
//! A source is opened once per pass, and gives all its bytes from the first on. In between it makes sure that
//! they are still the same bytes, or says that they changed.

mod file;
mod http;
mod normalised;
mod pipe;
mod registry;
mod spooled;
mod uploaded;

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use file::FileSource;
pub use http::HttpSource;
pub use normalised::NormalisedSource;
pub(super) use normalised::Origin;
pub use pipe::PipeSource;
pub use registry::RegistrySource;
pub use spooled::SpooledSource;
pub use uploaded::UploadedSource;

use super::SourceError;
use crate::artifact::Annotations;
use crate::disk::Limits;

/// Pieces that wait to be taken.
const QUEUE: usize = 16;

/// Where the bytes of a disk come from.
///
/// A pipe becomes [`Source::Spooled`] when it was read, and any source [`Source::Normalised`] when it was converted.
#[derive(Debug)]
pub enum Source {
    /// An HTTP server.
    Http(Box<HttpSource>),
    /// A file or a block device.
    File(FileSource),
    /// Standard input, or whatever else is read but once.
    Pipe(PipeSource),
    /// A disk image on another registry.
    Registry(Box<RegistrySource>),
    /// What was read from a pipe and is kept in the registry.
    Spooled(SpooledSource),
    /// A file that somebody uploaded to the registry for an image.
    Uploaded(UploadedSource),
    /// What another source was converted to.
    Normalised(Box<NormalisedSource>),
}

/// A source that is being read.
#[derive(Debug)]
pub(super) struct Opened {
    /// Bytes that will come, if that is known.
    pub(super) length: Option<u64>,
    /// When it was made.
    pub(super) modified: Option<SystemTime>,
    /// Differs for different bytes, as far as the source can tell: a place and a version.
    pub(super) identity: String,
    /// The bytes.
    pub(super) pieces: mpsc::Receiver<Result<Bytes, SourceError>>,
    /// Ends the reading when it is dropped: whoever waits for `pieces` on another thread would not notice.
    pub(super) reading: Option<DropGuard>,
}

/// Reads a source beside whoever takes its pieces, until the guard is dropped.
fn read(work: impl Future<Output = ()> + Send + 'static) -> DropGuard {
    let unwanted = CancellationToken::new();
    let guard = unwanted.clone().drop_guard();
    tokio::spawn(async move {
        tokio::select! {
            () = unwanted.cancelled() => {}
            () = work => {}
        }
    });
    guard
}

impl Source {
    /// Begins to read from the first byte.
    pub(super) async fn open(&mut self, limits: Limits) -> Result<Opened, SourceError> {
        match self {
            Self::Http(source) => source.open().await,
            Self::File(source) => source.open().await,
            Self::Pipe(source) => source.open(),
            Self::Registry(source) => source.open(limits).await,
            Self::Spooled(source) => source.open().await,
            Self::Uploaded(source) => source.open().await,
            Self::Normalised(source) => source.file.open().await,
        }
    }

    /// Forgets what the source was, so that what it is now is read from the beginning.
    pub(super) fn renew(&mut self) {
        match self {
            Self::Http(source) => source.renew(),
            Self::File(source) => source.renew(),
            // These cannot change.
            Self::Pipe(_)
            | Self::Registry(_)
            | Self::Spooled(_)
            | Self::Uploaded(_)
            | Self::Normalised(_) => {}
        }
    }

    /// Some bytes of an open source out of order; `None` if it cannot give them.
    pub(super) async fn read_at(&self, range: Range<u64>) -> Result<Option<Bytes>, SourceError> {
        match self {
            Self::Http(source) => source.read_at(range).await,
            Self::File(source) => source.read_at(range).await,
            Self::Normalised(source) => source.file.read_at(range).await,
            Self::Pipe(_) | Self::Registry(_) | Self::Spooled(_) | Self::Uploaded(_) => Ok(None),
        }
    }

    /// What people are told about where an image comes from.
    pub(super) fn annotations(&self, modified: Option<SystemTime>) -> Annotations {
        let (title, source) = match self {
            Self::Http(source) => (source.file_name(), Some(source.url().clone())),
            Self::File(source) => (source.file_name(), None),
            Self::Pipe(_) | Self::Spooled(_) | Self::Uploaded(_) => (None, None),
            Self::Registry(source) => (source.file_name(), source.url()),
            Self::Normalised(source) => return source.origin.annotations.clone(),
        };
        Annotations { title, source, created: modified }
    }

    /// The machine that the disk is for, if the source knows.
    pub(super) fn architecture(&self) -> Option<String> {
        match self {
            Self::Registry(source) => source.architecture(),
            Self::Normalised(source) => source.origin.architecture.clone(),
            _ => None,
        }
    }
}
