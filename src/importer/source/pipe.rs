//! [`PipeSource`]: bytes that come but once.

use std::io::Read;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{Opened, QUEUE};
use crate::importer::SourceError;

/// Bytes of one piece; a pipe gives at most 64 KiB at a time anyway.
const PIECE: usize = 256 << 10;

/// Standard input, an upload: whatever is read but once.
pub struct PipeSource {
    reader: Option<Box<dyn Read + Send + Sync>>,
}

impl std::fmt::Debug for PipeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipeSource").field("is_read", &self.reader.is_none()).finish()
    }
}

impl PipeSource {
    /// What `reader` gives.
    #[must_use]
    pub fn new(reader: Box<dyn Read + Send + Sync>) -> Self {
        Self { reader: Some(reader) }
    }

    pub(super) fn open(&mut self) -> Result<Opened, SourceError> {
        let mut reader = self.reader.take().ok_or(SourceError::Consumed)?;
        let (sender, pieces) = mpsc::channel(QUEUE);
        spawn_blocking(move || {
            loop {
                let mut piece = BytesMut::zeroed(PIECE);
                let sent = match reader.read(&mut piece) {
                    Ok(0) => return,
                    Ok(count) => {
                        piece.truncate(count);
                        sender.blocking_send(Ok(piece.freeze()))
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        let path = "standard input".into();
                        sender.blocking_send(Err(SourceError::File { path, error }))
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Opened { length: None, modified: None, identity: "pipe".to_owned(), pieces, reading: None })
    }
}
