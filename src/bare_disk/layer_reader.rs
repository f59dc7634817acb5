//! [`LayerReader`]: a layer of this registry for readers of tar, which wait for bytes and skip by seeking.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::{Buf as _, Bytes};
use futures::TryStreamExt as _;
use tokio::runtime::Handle;

use crate::registry::{BlobReader, StoreError};

/// Bytes that are read at once: to decode a chunk costs the same for one byte of it.
const WINDOW: u64 = 32 << 10;

/// Bytes of a layer that are read to find a disk, at most: a thousand times what the headers of a disk image take. A header
/// may say of itself that it has as many bytes as it likes.
const MOST: u64 = 16 << 20;

/// A layer that is read on a blocking thread. Only there: on others it would stop what it waits for.
#[derive(Debug)]
pub(super) struct LayerReader {
    blob: BlobReader,
    runtime: Handle,
    position: u64,
    /// What follows at the position, as far as it was read.
    window: Bytes,
    /// Bytes that may still be read.
    left: u64,
    failure: Option<StoreError>,
}

impl LayerReader {
    /// Reads a layer from its beginning. Called within the runtime that then does the reading.
    pub(super) fn of(blob: BlobReader) -> Self {
        Self {
            blob,
            runtime: Handle::current(),
            position: 0,
            window: Bytes::new(),
            left: MOST,
            failure: None,
        }
    }

    /// What follows at the position: nothing at the end only.
    pub(super) fn peek(&mut self) -> io::Result<&Bytes> {
        if self.window.is_empty() && self.position < self.blob.size() {
            let end = self.blob.size().min(self.position + WINDOW);
            let Some(left) = self.left.checked_sub(end - self.position) else {
                return Err(io::Error::other("it has more headers than the image of a disk"));
            };
            self.left = left;
            let pieces = self.blob.stream(self.position..end).try_collect::<Vec<_>>();
            match self.runtime.block_on(pieces) {
                Ok(pieces) => self.window = pieces.concat().into(),
                Err(error) => {
                    let told = io::Error::other(error.to_string());
                    self.failure = Some(error);
                    return Err(told);
                }
            }
        }
        Ok(&self.window)
    }

    /// Why the layer could not be read, if that is the reason why a reading has failed.
    pub(super) fn failure(&mut self) -> Option<StoreError> {
        self.failure.take()
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.peek()?.len());
        self.window.copy_to_slice(&mut buffer[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for LayerReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.blob.size().checked_add_signed(by),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        match position.checked_sub(self.position).and_then(|by| usize::try_from(by).ok()) {
            Some(by) if by <= self.window.len() => self.window.advance(by),
            _ => self.window = Bytes::new(),
        }
        self.position = position;
        Ok(position)
    }
}
