//! [`BlobFeed`]: the bytes of a blob on their way into an upload, some of which may have to be sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::UploadError;
use super::held::Held;
use super::piece::{Piece, look_up};

/// Memory for what is kept to be sent again. What a broken connection loses is in the buffers on the way.
const REPLAY: usize = 32 << 20;

/// Bytes that are handed to the connection at once.
const FRAME: u64 = 1 << 20;

/// The bytes of a blob, from the first on, as somebody else makes them.
#[derive(Debug)]
pub struct BlobFeed {
    pieces: Pieces,
    total: u64,
    /// What was taken from `pieces` and may have to be sent again; it ends at `taken`.
    kept: VecDeque<Piece>,
    kept_bytes: u64,
    kept_memory: usize,
    taken: u64,
    /// The next byte to send.
    position: u64,
    /// Bytes that arrived at the registry or are on the way, for a progress bar.
    sent: Arc<AtomicU64>,
    /// Whether the registry wants all bytes, also those that it has.
    is_plain: bool,
}

#[derive(Debug)]
enum Pieces {
    Bytes(mpsc::Receiver<Bytes>),
    /// It is known of each whether the registry has it.
    LookedUp(mpsc::Receiver<Piece>, Arc<Held>),
}

impl BlobFeed {
    /// A blob of `total` bytes that come through `pieces`; `sent` is kept at the number of bytes sent.
    #[must_use]
    pub fn new(pieces: mpsc::Receiver<Bytes>, total: u64, sent: Arc<AtomicU64>) -> Self {
        Self {
            pieces: Pieces::Bytes(pieces),
            total,
            kept: VecDeque::new(),
            kept_bytes: 0,
            kept_memory: 0,
            taken: 0,
            position: 0,
            sent,
            is_plain: false,
        }
    }

    /// The same blob, of which what the registry has is not sent, if it can do without.
    #[must_use]
    pub fn without(self, held: Option<Arc<Held>>) -> Self {
        match (self.pieces, held) {
            (Pieces::Bytes(pieces), Some(held)) => {
                let pieces = Pieces::LookedUp(look_up(pieces, Arc::clone(&held)), held);
                Self { pieces, ..self }
            }
            (pieces, _) => Self { pieces, ..self },
        }
    }

    /// The bytes of a blob from `start` on that are there already, and are all for now.
    pub(super) fn of_bytes(bytes: Bytes, start: u64) -> Self {
        let (_, pieces) = mpsc::channel(1);
        let end = start + bytes.len() as u64;
        let mut feed = Self::new(pieces, end, Arc::default());
        (feed.taken, feed.position) = (start, start);
        feed.keep(Piece::New(bytes));
        feed
    }

    /// Bytes of the blob.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What the registry has of it, where that is known and of use.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        match &self.pieces {
            Pieces::LookedUp(_, held) if !self.is_plain => Some(Arc::clone(held)),
            _ => None,
        }
    }

    /// From here on all pieces have their bytes. What was kept without has to be made again, should it be needed.
    pub(super) fn be_plain(&mut self) {
        self.is_plain = true;
    }

    /// Whether [`BlobFeed::be_plain`] was called.
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Makes `position` the next byte.
    pub(super) async fn seek(&mut self, position: u64) -> Result<(), UploadError> {
        if position < self.taken - self.kept_bytes {
            return Err(UploadError::Rewind);
        }
        while self.taken < position {
            self.take().await.ok_or(UploadError::Abandoned)?;
        }
        self.position = position;
        Ok(())
    }

    async fn take(&mut self) -> Option<()> {
        let piece = match &mut self.pieces {
            Pieces::Bytes(pieces) => Piece::New(pieces.recv().await?),
            Pieces::LookedUp(pieces, _) if self.is_plain => pieces.recv().await?,
            Pieces::LookedUp(pieces, _) => pieces.recv().await?.without_bytes(),
        };
        self.keep(piece);
        Some(())
    }

    fn keep(&mut self, piece: Piece) {
        self.taken += piece.length();
        self.kept_bytes += piece.length();
        self.kept_memory += piece.memory();
        self.kept.push_back(piece);
        while self.kept_memory - self.kept.front().map_or(0, Piece::memory) >= REPLAY {
            if let Some(piece) = self.kept.pop_front() {
                self.kept_bytes -= piece.length();
                self.kept_memory -= piece.memory();
            }
        }
    }

    /// The next piece, at most [`FRAME`] and `limit`. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self, limit: u64) -> Result<Piece, UploadError> {
        if self.position == self.taken {
            self.take().await.ok_or(UploadError::Abandoned)?;
        }
        let mut start = self.taken;
        // From the back: unless bytes are sent again, the next ones are in the last piece.
        for piece in self.kept.iter().rev() {
            start -= piece.length();
            if start <= self.position {
                let found = piece.part(self.position - start, FRAME.min(limit));
                if self.is_plain && matches!(found, Piece::Held { bytes: None, .. }) {
                    return Err(UploadError::WantsAll);
                }
                self.position += found.length();
                self.sent.store(self.position, Ordering::Relaxed);
                return Ok(found);
            }
        }
        Err(UploadError::Rewind)
    }
}

#[cfg(test)]
mod tests {
    use super::super::held::Place;
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
            let piece = feed.next(count - read.len() as u64).await.unwrap();
            read.extend_from_slice(&piece.into_bytes().unwrap());
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

    /// A feed whose second half the registry has.
    fn half_held(content: &Bytes) -> BlobFeed {
        let (first, second) = (content.slice(..content.len() / 2), content.slice(content.len() / 2..));
        let held = Piece::Held {
            place: Place { source: 0, offset: 1000 },
            length: second.len() as u64,
            bytes: Some(second),
        };
        let (sender, receiver) = mpsc::channel(3);
        for piece in [Piece::New(first), Piece::Zeros(100), held] {
            sender.try_send(piece).unwrap();
        }
        let (_, pieces) = mpsc::channel(1);
        let feed = BlobFeed::new(pieces, content.len() as u64 + 100, Arc::default());
        BlobFeed { pieces: Pieces::LookedUp(receiver, Arc::default()), ..feed }
    }

    #[tokio::test]
    async fn what_the_registry_has_can_be_told_again_from_anywhere() {
        let content: Bytes = (0..=249_u8).cycle().take(1000).collect();
        let mut feed = half_held(&content);
        feed.seek(1100).await.unwrap();
        for position in [600, 601, 850, 1099] {
            feed.seek(position).await.unwrap();
            let offset = 1000 + position - 600;
            let expected =
                Piece::Held { place: Place { source: 0, offset }, length: 1100 - position, bytes: None };
            assert_eq!(feed.next(u64::MAX).await.unwrap(), expected);
        }
        feed.seek(550).await.unwrap();
        assert_eq!(feed.next(u64::MAX).await.unwrap(), Piece::Zeros(50));
    }

    #[tokio::test]
    async fn a_registry_that_wants_all_bytes_gets_them_or_the_blob_is_made_again() {
        let content: Bytes = (0..=249_u8).cycle().take(1000).collect();
        let mut feed = half_held(&content);
        feed.be_plain();
        let whole = [&content[..500], &[0; 100], &content[500..]].concat();
        assert_eq!(read(&mut feed, 1100).await, whole);
        let mut feed = half_held(&content);
        feed.seek(1100).await.unwrap();
        feed.be_plain();
        feed.seek(700).await.unwrap();
        assert!(matches!(feed.next(u64::MAX).await, Err(UploadError::WantsAll)), "it has gone");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let piece = 4 << 20;
        let mut feed = feed(&[piece; 20]);
        feed.seek(80 << 20).await.unwrap();
        assert!(feed.kept_memory < REPLAY + 2 * piece, "{}", feed.kept_memory);
        assert!(matches!(feed.seek(0).await, Err(UploadError::Rewind)), "the first bytes are gone");
        feed.seek((80 << 20) - REPLAY as u64).await.unwrap();
    }
}
