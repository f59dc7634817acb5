//! [`examine`]: what the first bytes of a source tell, before anything is decided.

use std::io::{self, Read};

use tokio::task::spawn_blocking;

use super::source::Opened;
use super::{Source, SourceError};
use crate::artifact::PieceReader;
use crate::disk::{Compression, ExpandedSize, Expander, Format, HEAD, Limits, Step, recognise};

/// Compressed bytes that are looked at: enough for [`HEAD`] bytes to come out of any compression.
const LOOK: usize = 1 << 20;

/// A source whose first bytes are known; none of them is lost for the pass.
pub(super) struct Examined {
    pub(super) reader: PieceReader<SourceError>,
    pub(super) compression: Compression,
    /// The first bytes of the disk.
    pub(super) head: Vec<u8>,
    /// The format, by head and tail.
    pub(super) format: Format,
    /// Whether the source could show its tail, without which a fixed VHD is taken for raw.
    is_tail_seen: bool,
    /// Bytes of the disk's file, as they are told; a pass shows whether that is true.
    pub(super) size: Option<u64>,
}

impl Examined {
    /// Whether the end of the disk, which nobody has seen, may make a fixed VHD of what looks raw.
    pub(super) fn may_be_fixed_vhd(&self) -> bool {
        self.format == Format::Raw && !self.is_tail_seen
    }

    /// The size, where it is more than a guess: gzip tells that of its last member, and zstd that of its first
    /// frame.
    pub(super) fn sure_size(&self) -> Option<u64> {
        self.size.filter(|_| matches!(self.compression, Compression::None | Compression::Xz))
    }
}

/// Looks at the first bytes of what was opened, and at others if the source can seek.
pub(super) async fn examine(
    source: &Source,
    opened: Opened,
    limits: Limits,
) -> Result<Examined, SourceError> {
    let Opened { length, pieces, .. } = opened;
    let mut reader = PieceReader::new(pieces);
    let failure = reader.failure();
    let looked = spawn_blocking(move || {
        let start = reader.peek(LOOK)?.to_vec();
        let compression = Compression::detect(&start);
        let head = expand_head(compression, &start, limits);
        Ok::<_, io::Error>((reader, start, compression, head))
    })
    .await
    .map_err(|error| SourceError::Broken(error.to_string()))?;
    let (reader, start, compression, head) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let cause = std::sync::Arc::into_inner(failure).and_then(std::sync::OnceLock::into_inner);
            return Err(cause.unwrap_or_else(|| SourceError::Broken(error.to_string())));
        }
    };
    let size = match (compression, length) {
        (Compression::None, length) => length,
        (_, None) => None,
        (_, Some(length)) => expanded_size(source, compression, length, &start, &head).await?,
    };
    let mut format = recognise(&head, None);
    let mut is_tail_seen = false;
    if let (Format::Raw, Compression::None, Some(length @ 512..)) = (format, compression, length)
        && let Some(tail) = source.read_at(length - 512..length).await?
    {
        format = recognise(&head, Some(&tail));
        is_tail_seen = true;
    }
    // A disk that is shorter than the footer of a VHD has none.
    is_tail_seen |= compression == Compression::None && length.is_some_and(|length| length < 512);
    Ok(Examined { reader, compression, head, format, is_tail_seen, size })
}

/// The first bytes that come out of `start`. What is wrong with the stream shows when all of it is read.
fn expand_head(compression: Compression, start: &[u8], limits: Limits) -> Vec<u8> {
    if compression == Compression::None {
        return start[..start.len().min(HEAD)].to_vec();
    }
    let mut head = Vec::new();
    if let Ok(expander) = Expander::new(compression, start, limits, 1) {
        // `start` is cut somewhere, so an error at its end is to be expected.
        let _ = expander.take(HEAD as u64).read_to_end(&mut head);
    }
    head
}

/// How many bytes will come out, as far as the ends of the stream tell.
async fn expanded_size(
    source: &Source,
    compression: Compression,
    length: u64,
    start: &[u8],
    head: &[u8],
) -> Result<Option<u64>, SourceError> {
    let mut size = ExpandedSize::new(compression, length, start, head);
    loop {
        match size.step() {
            Step::Size(size) => return Ok(Some(size)),
            Step::Unknown => return Ok(None),
            Step::Read(range) => match source.read_at(range).await? {
                Some(bytes) => size.feed(&bytes),
                None => return Ok(None),
            },
        }
    }
}
