//! [`Piece`]: some bytes of a blob, and whether the registry has them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::held::{Held, Place};
use crate::chunk::{ChunkId, Part, Sizes, Splitter};

/// Pieces that wait to be sent, behind those that wait to be looked up.
const QUEUE: usize = 64;

/// What a piece takes beside its bytes.
const OVERHEAD: usize = 64;

/// Some bytes of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// To be sent.
    New(Bytes),
    /// So many zeros.
    Zeros(u64),
    /// The registry has them.
    Held {
        /// Where.
        place: Place,
        /// How many they are.
        length: u64,
        /// Themselves, in case they have to be sent all the same.
        bytes: Option<Bytes>,
    },
}

impl Piece {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::New(bytes) => bytes.len() as u64,
            Self::Zeros(length) | Self::Held { length, .. } => *length,
        }
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let bytes = match self {
            Self::New(bytes) | Self::Held { bytes: Some(bytes), .. } => bytes.len(),
            Self::Zeros(_) | Self::Held { bytes: None, .. } => 0,
        };
        OVERHEAD + bytes
    }

    /// A part of it, from `start` on, which lies within it, and at most `limit` bytes.
    pub(super) fn part(&self, start: u64, limit: u64) -> Self {
        let end = self.length().min(start.saturating_add(limit));
        let cut = |bytes: &Bytes| {
            let index = |at| usize::try_from(at).unwrap_or(bytes.len());
            bytes.slice(index(start)..index(end))
        };
        match self {
            Self::New(bytes) => Self::New(cut(bytes)),
            Self::Zeros(_) => Self::Zeros(end - start),
            Self::Held { place, bytes, .. } => Self::Held {
                place: Place { source: place.source, offset: place.offset + start },
                length: end - start,
                bytes: bytes.as_ref().map(cut),
            },
        }
    }

    /// As it is kept for a registry that copies: what it has, it has.
    pub(super) fn without_bytes(self) -> Self {
        match self {
            Self::Held { place, length, .. } => Self::Held { place, length, bytes: None },
            piece => piece,
        }
    }

    /// Its bytes, unless they are not here any more.
    pub(super) fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::New(bytes) => Some(bytes),
            Self::Zeros(length) => Some(BytesMut::zeroed(usize::try_from(length).ok()?).freeze()),
            Self::Held { bytes, .. } => bytes,
        }
    }
}

/// Finds out which of the bytes that come the registry has. They are cut as it cuts them, on a thread of its own.
pub(super) fn look_up(mut bytes: mpsc::Receiver<Bytes>, held: Arc<Held>) -> mpsc::Receiver<Piece> {
    let (sender, pieces) = mpsc::channel(QUEUE);
    spawn_blocking(move || {
        let mut splitter = Splitter::new(Sizes::STORED);
        let send = |parts: Vec<Part>| {
            parts.into_iter().try_for_each(|part| sender.blocking_send(found(part, &held)))
        };
        while let Some(bytes) = bytes.blocking_recv() {
            // A registry is told of zeros as they come: to one that hears nothing for long the client is gone.
            let mut parts = splitter.update(&bytes);
            parts.extend(splitter.zeros_so_far());
            if send(parts).is_err() {
                return;
            }
        }
        // Should nobody want them any more, nobody minds.
        let _ = send(splitter.finish());
    });
    pieces
}

fn found(part: Part, held: &Held) -> Piece {
    match part {
        Part::Zeros(length) => Piece::Zeros(length),
        Part::Inline(bytes) => Piece::New(bytes),
        Part::Chunk(bytes) if held.is_empty() => Piece::New(bytes),
        Part::Chunk(bytes) => match held.find(&ChunkId::of(&bytes), bytes.len() as u64) {
            Some(place) => Piece::Held { place, length: bytes.len() as u64, bytes: Some(bytes) },
            None => Piece::New(bytes),
        },
    }
}
