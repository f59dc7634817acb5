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

/// Of so many bytes one has to be saved, or a chunk is stored as it is: to decompress it at each reading costs more than that.
const LEAST_SAVED: usize = 32;

/// Behind so many chunks that do not compress it is tried with samples whether the next one might.
const DOUBTFUL: u32 = 4;

/// One of so many is tried whole all the same: samples may miss what there is.
const TRIED: u32 = 16;

/// Bytes of a sample. There are two of them, so that what is half noise is found out in most cases.
const SAMPLE: usize = 4 << 10;

/// Compresses chunks, one after the other. What it takes to do so, some hundred KiB, is kept for the next one.
///
/// What does not compress, such as films, archives and encrypted disks, comes in long stretches: there most chunks are looked at by
/// samples alone, an eighth of the work.
pub struct Encoder {
    compressor: Option<Compressor<'static>>,
    scratch: Vec<u8>,
    /// Chunks in a row, up to the last one, that did not compress.
    in_vain: u32,
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
        Self { compressor, scratch: Vec::new(), in_vain: 0 }
    }

    /// The bytes to store: fewer than the chunk has, or the chunk itself.
    pub fn encode(&mut self, chunk: &Bytes) -> Bytes {
        let is_tried = self.in_vain < DOUBTFUL || self.in_vain.is_multiple_of(TRIED);
        let is_doubtful = !is_tried && chunk.len() > 4 * SAMPLE;
        let is_worth_it = !is_doubtful || samples(chunk).into_iter().any(|sample| self.compress(sample));
        if is_worth_it && self.compress(chunk) {
            self.in_vain = 0;
            // Copied, so that what waits to be written takes no more memory than it has bytes.
            return Bytes::copy_from_slice(&self.scratch);
        }
        self.in_vain = self.in_vain.saturating_add(1);
        chunk.clone()
    }

    /// Compresses into the scratch, and says whether enough is saved.
    fn compress(&mut self, bytes: &[u8]) -> bool {
        let Some(compressor) = &mut self.compressor else { return false };
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        let compressed = compressor.compress_to_buffer(bytes, &mut self.scratch);
        compressed.is_ok_and(|length| length + bytes.len().div_ceil(LEAST_SAVED) <= bytes.len())
    }
}

/// Samples of a chunk of more than four of them, out of the midst of its halves.
fn samples(chunk: &[u8]) -> [&[u8]; 2] {
    [1, 3].map(|quarter| &chunk[chunk.len() / 4 * quarter..][..SAMPLE])
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

    fn noise(length: usize) -> Vec<u8> {
        let mut number = 1_u32;
        std::iter::repeat_with(|| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            number.to_be_bytes()[0]
        })
        .take(length)
        .collect()
    }

    #[test]
    fn what_does_not_compress_is_stored_as_it_is() {
        let noise = Bytes::from(noise(10_000));
        assert_eq!(Encoder::new(1).encode(&noise), noise);
        let text = Bytes::from(b"disk ".repeat(2_000));
        assert!(Encoder::new(1).encode(&text).len() < 100);
        assert_eq!(Encoder::new(0).encode(&text), text, "level 0");
    }

    #[test]
    fn what_hardly_compresses_is_stored_as_it_is() {
        for (zeros, is_less) in [(1_000, false), (4_000, true)] {
            let chunk = Bytes::from([noise(60_000), vec![0; zeros]].concat());
            assert_eq!(Encoder::new(1).encode(&chunk).len() < chunk.len(), is_less, "{zeros}");
        }
    }

    #[test]
    fn behind_noise_what_compresses_is_found_out() {
        let mut encoder = Encoder::new(1);
        for _ in 0..=DOUBTFUL {
            let noise = Bytes::from(noise(60_000));
            assert_eq!(encoder.encode(&noise), noise);
        }
        let halves = [[noise(30_000), vec![7; 30_000]], [vec![7; 30_000], noise(30_000)]];
        // A short one is always tried.
        for chunk in halves.map(|halves| halves.concat()).into_iter().chain([vec![7; 8_192]]) {
            let chunk = Bytes::from(chunk);
            assert!(encoder.encode(&chunk).len() < chunk.len() * 2 / 3);
            encoder.in_vain = DOUBTFUL;
        }
    }

    #[test]
    fn behind_noise_samples_decide_but_for_one_of_some_chunks() {
        // Noise where samples are taken, and nothing else.
        let mut chunk = vec![7; 64_000];
        for quarter in [1, 3] {
            chunk[16_000 * quarter..][..SAMPLE].copy_from_slice(&noise(SAMPLE));
        }
        let chunk = Bytes::from(chunk);
        let mut encoder = Encoder::new(1);
        assert!(encoder.encode(&chunk).len() < chunk.len());
        encoder.in_vain = DOUBTFUL;
        for _ in DOUBTFUL..TRIED {
            assert_eq!(encoder.encode(&chunk), chunk);
        }
        assert!(encoder.encode(&chunk).len() < chunk.len());
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
