//! [`PieceReader`]: pieces that arrive on a channel, for code that reads and blocks.

use std::io::{self, BufRead, Read};
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Reads what a channel brings. Not for async threads.
///
/// Decoders between this reader and its user may relabel errors or lose their cause, so the cause is put
/// aside where the user finds it: see [`PieceReader::failure`].
#[derive(Debug)]
pub struct PieceReader<E> {
    pieces: mpsc::Receiver<Result<Bytes, E>>,
    current: Bytes,
    failure: Arc<OnceLock<E>>,
}

impl<E> PieceReader<E> {
    /// A reader of all that `pieces` brings; a closed channel is the end.
    #[must_use]
    pub fn new(pieces: mpsc::Receiver<Result<Bytes, E>>) -> Self {
        Self { pieces, current: Bytes::new(), failure: Arc::new(OnceLock::new()) }
    }

    /// Where the error appears that ended the reading, if one did.
    #[must_use]
    pub fn failure(&self) -> Arc<OnceLock<E>> {
        Arc::clone(&self.failure)
    }

    /// The next bytes without taking them: `count` of them, or all there are.
    pub fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        self.fill_buf()?;
        if self.current.len() < count {
            let mut joined = Vec::from(std::mem::take(&mut self.current));
            while joined.len() < count {
                match self.piece()? {
                    Some(piece) => joined.extend_from_slice(&piece),
                    None => break,
                }
            }
            self.current = joined.into();
        }
        Ok(&self.current)
    }

    /// The next piece as it came; `None` at the end.
    pub fn piece(&mut self) -> io::Result<Option<Bytes>> {
        if self.fill_buf()?.is_empty() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.current)))
    }
}

impl<E> BufRead for PieceReader<E> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(error)) => {
                    // Only the first is of interest.
                    let _ = self.failure.set(error);
                    self.pieces.close();
                    return Err(io::Error::other("the stream failed"));
                }
                None if self.failure.get().is_some() => return Err(io::Error::other("the stream failed")),
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count);
    }
}

impl<E> Read for PieceReader<E> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_one_stream() {
        let (sender, receiver) = mpsc::channel::<Result<Bytes, ()>>(3);
        for piece in ["ab", "", "cde"] {
            sender.try_send(Ok(piece.into())).unwrap();
        }
        drop(sender);
        let mut text = String::new();
        PieceReader::new(receiver).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcde");
    }

    #[test]
    fn what_is_peeked_at_is_still_read() {
        let (sender, receiver) = mpsc::channel::<Result<Bytes, ()>>(3);
        for piece in ["ab", "cd", "ef"] {
            sender.try_send(Ok(piece.into())).unwrap();
        }
        drop(sender);
        let mut reader = PieceReader::new(receiver);
        assert_eq!(reader.peek(3).unwrap(), b"abcd");
        assert_eq!(reader.peek(100).unwrap(), b"abcdef");
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcdef");
    }

    #[test]
    fn a_failure_is_no_end_however_often_one_asks() {
        let (sender, receiver) = mpsc::channel(2);
        sender.try_send(Ok("ab".into())).unwrap();
        sender.try_send(Err("broken")).unwrap();
        drop(sender);
        let mut reader = PieceReader::new(receiver);
        let failure = reader.failure();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert!(reader.read(&mut [0]).is_err());
        assert_eq!(failure.get(), Some(&"broken"));
    }
}
