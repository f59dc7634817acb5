//! How chunks are stored: a frame of zstd each, or as they are where that is not less.
//!
//! Each for itself, so that any one can be read without the others. What is read back is checked against the id of the
//! chunk, so a damaged one is never handed on.

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::{ChunkId, MAX_CHUNK};

/// What is read is not the chunk that was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chunk {0} is damaged")]
pub struct DamagedChunk(pub ChunkId);

/// Compresses chunks, one after the other. What it takes to do so, some hundred KiB, is kept for the next one.
pub struct Encoder {
    compressor: Option<Compressor<'static>>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder at a level of zstd; at level 0 chunks are stored as they are.
    #[must_use]
    pub fn new(level: i32) -> Self {
        // Only memory can be lacking; without a compressor chunks are stored as they are.
        let compressor = (level != 0).then(|| Compressor::new(level).ok()).flatten();
        Self { compressor, scratch: Vec::new() }
    }

    /// The bytes to store: fewer than the chunk has, or the chunk itself.
    pub fn encode(&mut self, chunk: &Bytes) -> Bytes {
        let Some(compressor) = &mut self.compressor else { return chunk.clone() };
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
        match compressor.compress_to_buffer(chunk, &mut self.scratch) {
            // Copied, so that what waits to be written takes no more memory than it has bytes.
            Ok(length) if length < chunk.len() => Bytes::copy_from_slice(&self.scratch),
            _ => chunk.clone(),
        }
    }
}

/// Reads chunks, one after the other.
#[derive(Default)]
pub struct Decoder(Option<Decompressor<'static>>);

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// The chunk `id` of `length` bytes, out of what was stored of it.
    pub fn decode(&mut self, id: &ChunkId, stored: &Bytes, length: usize) -> Result<Bytes, DamagedChunk> {
        let damaged = || DamagedChunk(*id);
        if length > MAX_CHUNK as usize || stored.len() > length {
            return Err(damaged());
        }
        let chunk = if stored.len() == length {
            stored.clone()
        } else {
            let decompressor = match &mut self.0 {
                Some(decompressor) => decompressor,
                none => none.insert(Decompressor::new().map_err(|_| damaged())?),
            };
            decompressor.decompress(stored, length).map_err(|_| damaged())?.into()
        };
        if chunk.len() == length && ChunkId::of(&chunk) == *id { Ok(chunk) } else { Err(damaged()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_compress_is_stored_as_it_is() {
        let mut number = 1_u32;
        let noise: Bytes = std::iter::repeat_with(|| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            number.to_be_bytes()[0]
        })
        .take(10_000)
        .collect();
        assert_eq!(Encoder::new(1).encode(&noise), noise);
        let text = Bytes::from(b"disk ".repeat(2_000));
        assert!(Encoder::new(1).encode(&text).len() < 100);
        assert_eq!(Encoder::new(0).encode(&text), text, "level 0");
    }

    proptest! {
        #[test]
        fn a_chunk_comes_back_and_a_damaged_one_never(
            chunk in prop_oneof![
                proptest::collection::vec(any::<u8>(), 1..5000),
                proptest::collection::vec(Just(7), 1..5000),
            ],
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let chunk = Bytes::from(chunk);
            let id = ChunkId::of(&chunk);
            let stored = Encoder::new(1).encode(&chunk);
            prop_assert_eq!(Decoder::default().decode(&id, &stored, chunk.len()), Ok(chunk.clone()));
            let mut damaged = stored.to_vec();
            damaged[at.index(stored.len())] ^= 1_u8 << bit;
            if let Ok(bytes) = Decoder::default().decode(&id, &damaged.into(), chunk.len()) {
                // A bit that zstd does not use.
                prop_assert_eq!(&bytes, &chunk);
            }
            prop_assert!(Decoder::default().decode(&id, &stored, chunk.len() + 1).is_err());
            prop_assert!(Decoder::default().decode(&id, &stored.slice(1..), chunk.len()).is_err());
        }
    }
}
