//! Range reads: a short range in one piece, and others in large pieces, one piece ahead of the reader.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{blocking, failed};
use crate::{ByteStream, Error, Key, Result};

/// Measured: 64 KiB costs up to 1.9 times the CPU of 256 KiB; larger gains nothing that shows.
const PIECE: u64 = 256 * 1024;

/// A range of at most so many bytes is read in one piece as it is opened: each job for another thread costs, and what is stored in
/// chunks is read by so many and wanted in one piece.
const WHOLE: u64 = 1024 * 1024;

/// Pieces in memory for one reader of a longer range: the one being sent and the one being read.
const AHEAD: usize = 2;

pub(super) async fn read(path: PathBuf, key: Key, range: Range<u64>) -> Result<ByteStream> {
    let wanted = range.clone();
    let opened = blocking(move || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let is_short = (1..=WHOLE).contains(&(wanted.end - wanted.start)) && wanted.end <= length;
        let whole = is_short.then(|| read_piece(&file, &wanted)).transpose()?;
        Ok((file, length, whole))
    });
    let (file, length, whole) = opened.await.map_err(|e| failed("read", &key, e))?;
    if length < range.end {
        let reason = format!("the object has {length} bytes, bytes to {} are needed", range.end);
        return Err(Error::DataLost { key, reason });
    }
    if let Some(bytes) = whole {
        return Ok(stream::iter([Ok(bytes)]).boxed());
    }
    let file = Arc::new(file);
    Ok(stream::iter(pieces(range))
        .map(move |piece| {
            let (file, key) = (Arc::clone(&file), key.clone());
            async move {
                blocking(move || read_piece(&file, &piece))
                    .await
                    .map_err(|e| Error::unavailable("read", key.as_str(), e))
            }
        })
        .buffered(AHEAD)
        .boxed())
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> + Send {
    let mut start = range.start;
    std::iter::from_fn(move || {
        (start < range.end).then(|| {
            let piece = start..range.end.min(start + PIECE);
            start = piece.end;
            piece
        })
    })
}

fn read_piece(file: &File, piece: &Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(piece.end - piece.start).map_err(io::Error::other)?;
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let offset = piece.start + buffer.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    buffer.truncate(length);
    Ok(buffer.into())
}
