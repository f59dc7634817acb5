//! [`run`]: one pass over a source, from its bytes to a layer's.
//!
//! Three stages on threads of their own, joined by short channels: **tap** counts the source's bytes and
//! computes its checksums, **expand** takes them out of compression, **layer** probes the disk, puts the tar around
//! it and hashes it. So checksum, decompressor and hash each have a core, and the slowest sets the pace. A
//! stage that fails ends the others, and the first cause wins.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::checksum::{Checksum, Checksummer, Mismatch};
use super::{Progress, SourceError};
use crate::artifact::{LayerShape, PieceReader};
use crate::disk::{Compression, Depth, Disk, Expander, Limits, Probe, Refusal};
use crate::oci::{Algorithm, Digest, Hasher};

/// Pieces that wait between two stages.
const QUEUE: usize = 8;

/// Bytes of an expanded piece.
const PIECE: usize = 512 << 10;

/// What a pass has to do.
pub(super) struct Pass {
    pub(super) compression: Compression,
    /// The layer that is expected: it is hashed and goes to `layer`. Without it the pass only measures.
    pub(super) shape: Option<LayerShape>,
    /// Where the layer goes.
    pub(super) layer: Option<mpsc::Sender<Bytes>>,
    /// Where the source's own bytes go, to be kept, and what hashes them.
    pub(super) spool: Option<(mpsc::Sender<Bytes>, Hasher)>,
    /// Where the disk goes, without the layer around it.
    pub(super) disk: Option<mpsc::Sender<Bytes>>,
    /// What the source must hash to.
    pub(super) checksums: Vec<Checksum>,
    pub(super) limits: Limits,
    pub(super) progress: Progress,
}

/// What a pass found.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Bytes of the source.
    pub(super) source_size: u64,
    /// The digest of what was kept of the source.
    pub(super) kept: Option<Digest>,
    /// Bytes of the disk's file.
    pub(super) file_size: u64,
    pub(super) disk: Disk,
    /// The layer's digest, if the disk had the size that was expected.
    pub(super) layer: Option<Digest>,
}

/// Why a pass ended early.
#[derive(Debug)]
pub(super) enum PassError {
    Source(SourceError),
    Refused(Refusal),
    Checksum(Box<Mismatch>),
    /// Nobody takes the bytes any more, and whoever took them says why.
    Stopped,
    Broken(String),
}

/// A stage ended because its neighbour did.
#[derive(Debug, Clone, Copy)]
struct Neighbour;

/// Reads all of a source.
pub(super) async fn run(source: PieceReader<SourceError>, pass: Pass) -> Result<Measured, PassError> {
    let Pass { compression, shape, layer, spool, disk, checksums, limits, progress } = pass;
    let failure = source.failure();
    let tap = Tap { checksums: Checksummer::new(&checksums), spool, progress };
    let expected = shape.as_ref().map(LayerShape::file_size);
    let (tapped, to_expand) = mpsc::channel(QUEUE);
    let (expanded, to_layer) = mpsc::channel(QUEUE);
    let tap = spawn_blocking(move || tap.run(source, &tapped));
    let expand = spawn_blocking(move || expand(compression, PieceReader::new(to_expand), &expanded, limits));
    let layer = spawn_blocking(move || Layer::new(shape, layer, disk).run(to_layer, limits));
    let (tap, expand, layer) = tokio::join!(tap, expand, layer);
    let died = |error: tokio::task::JoinError| PassError::Broken(error.to_string());
    let (tap, expand, layer) = (tap.map_err(died)?, expand.map_err(died)?, layer.map_err(died)?);
    if let Some(error) = cause(failure) {
        return Err(PassError::Source(error));
    }
    // The refusal of the disk comes first: it is what made the stages before it stop.
    let (file_size, disk, digest) = match (layer, expand) {
        (Err(PassError::Stopped), Err(refusal @ PassError::Refused(_))) => return Err(refusal),
        (Err(error), _) | (_, Err(error)) => return Err(error),
        (Ok(layer), Ok(())) => layer,
    };
    let (source_size, kept) = tap?;
    tracing::debug!(source_size, file_size, ?expected, "read the source");
    Ok(Measured { source_size, kept, file_size, disk, layer: digest })
}

/// The error that ended the reading of the source.
fn cause(failure: Arc<OnceLock<SourceError>>) -> Option<SourceError> {
    // All readers have ended, so this is the last reference.
    Arc::into_inner(failure)?.into_inner()
}

struct Tap {
    checksums: Checksummer,
    spool: Option<(mpsc::Sender<Bytes>, Hasher)>,
    progress: Progress,
}

impl Tap {
    fn run(
        mut self,
        mut source: PieceReader<SourceError>,
        next: &mpsc::Sender<Result<Bytes, Neighbour>>,
    ) -> Result<(u64, Option<Digest>), PassError> {
        let mut size = 0;
        loop {
            let piece = match source.piece() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(_) => {
                    let _ = next.blocking_send(Err(Neighbour));
                    return Err(PassError::Stopped);
                }
            };
            size += piece.len() as u64;
            self.progress.read(piece.len() as u64);
            self.checksums.update(&piece);
            let kept = self.spool.as_mut().is_none_or(|(spool, hasher)| {
                hasher.update(&piece);
                spool.blocking_send(piece.clone()).is_ok()
            });
            if !kept || next.blocking_send(Ok(piece)).is_err() {
                let _ = next.blocking_send(Err(Neighbour));
                return Err(PassError::Stopped);
            }
        }
        self.checksums.check().map_err(|mismatch| PassError::Checksum(Box::new(mismatch)))?;
        Ok((size, self.spool.map(|(_, hasher)| hasher.finish())))
    }
}

fn expand(
    compression: Compression,
    mut source: PieceReader<Neighbour>,
    next: &mpsc::Sender<Result<Bytes, Neighbour>>,
    limits: Limits,
) -> Result<(), PassError> {
    let failure = source.failure();
    let outcome = if compression == Compression::None {
        pass_on(&mut source, next, limits)
    } else {
        let threads =
            std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        Expander::new(compression, source, limits, threads)
            .map_err(as_pass_error)
            .and_then(|mut expander| expand_all(&mut expander, next))
    };
    if outcome.is_err() || failure.get().is_some() {
        let _ = next.blocking_send(Err(Neighbour));
    }
    if failure.get().is_some() { Err(PassError::Stopped) } else { outcome }
}

/// Hands pieces on as they are.
fn pass_on(
    source: &mut PieceReader<Neighbour>,
    next: &mpsc::Sender<Result<Bytes, Neighbour>>,
    limits: Limits,
) -> Result<(), PassError> {
    let mut size = 0;
    while let Some(piece) = source.piece().map_err(|_| PassError::Stopped)? {
        size += piece.len() as u64;
        if size > limits.expanded_size {
            return Err(PassError::Refused(Refusal::ExpandedTooLarge { limit: limits.expanded_size }));
        }
        next.blocking_send(Ok(piece)).map_err(|_| PassError::Stopped)?;
    }
    Ok(())
}

fn expand_all(
    expander: &mut impl Read,
    next: &mpsc::Sender<Result<Bytes, Neighbour>>,
) -> Result<(), PassError> {
    loop {
        let mut piece = BytesMut::zeroed(PIECE);
        let mut filled = 0;
        while filled < PIECE {
            match expander.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(as_pass_error(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        piece.truncate(filled);
        next.blocking_send(Ok(piece.freeze())).map_err(|_| PassError::Stopped)?;
    }
}

fn as_pass_error(error: io::Error) -> PassError {
    match error.downcast::<Refusal>() {
        Ok(refusal) => PassError::Refused(refusal),
        Err(_) => PassError::Stopped,
    }
}

/// The last stage.
struct Layer {
    shape: Option<LayerShape>,
    hasher: Hasher,
    sink: Option<mpsc::Sender<Bytes>>,
    disk: Option<mpsc::Sender<Bytes>>,
    size: u64,
}

impl Layer {
    fn new(
        shape: Option<LayerShape>,
        sink: Option<mpsc::Sender<Bytes>>,
        disk: Option<mpsc::Sender<Bytes>>,
    ) -> Self {
        Self { shape, hasher: Hasher::new(Algorithm::Sha256), sink, disk, size: 0 }
    }

    fn run(
        mut self,
        mut pieces: mpsc::Receiver<Result<Bytes, Neighbour>>,
        limits: Limits,
    ) -> Result<(u64, Disk, Option<Digest>), PassError> {
        // The size that is expected may be wrong, which is no fault of the disk's.
        let mut probe = Probe::new(limits, Depth::Full, None);
        if let Some(shape) = &self.shape {
            let header = shape.header();
            self.put(header)?;
        }
        while let Some(piece) = pieces.blocking_recv() {
            let piece = piece.map_err(|Neighbour| PassError::Stopped)?;
            probe.update(&piece).map_err(PassError::Refused)?;
            self.size += piece.len() as u64;
            if let Some(disk) = &self.disk {
                disk.blocking_send(piece.clone()).map_err(|_| PassError::Stopped)?;
            }
            if self.shape.as_ref().is_some_and(|shape| self.size > shape.file_size()) {
                // It is larger than expected: this pass goes on only to measure.
                self.shape = None;
                self.sink = None;
            }
            if self.shape.is_some() {
                self.put(piece)?;
            }
        }
        let disk = probe.finish().map_err(PassError::Refused)?;
        let Some(shape) = self.shape.take().filter(|shape| shape.file_size() == self.size) else {
            return Ok((self.size, disk, None));
        };
        self.put(shape.trailer())?;
        Ok((self.size, disk, Some(self.hasher.finish())))
    }

    fn put(&mut self, bytes: Bytes) -> Result<(), PassError> {
        self.hasher.update(&bytes);
        match &self.sink {
            Some(sink) => sink.blocking_send(bytes).map_err(|_| PassError::Stopped),
            None => Ok(()),
        }
    }
}
