//! Compressed streams for the tests.

use std::io::{Read, Write};

use liblzma::stream::{Check, MtStreamBuilder};

use super::{Compression, Expander, Limits};

/// All that compress.
pub(super) const ALL: [Compression; 4] =
    [Compression::Gzip, Compression::Xz, Compression::Zstd, Compression::Bzip2];

/// `bytes` as one stream, with a checksum inside.
pub(super) fn squeeze(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => squeeze_blocks(bytes, 0),
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.set_pledged_src_size(Some(bytes.len() as u64)).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// `bytes` as one xz stream of blocks of `size` bytes.
pub(super) fn squeeze_blocks(bytes: &[u8], size: u64) -> Vec<u8> {
    let encoder =
        MtStreamBuilder::new().preset(0).block_size(size).check(Check::Crc64).threads(1).encoder().unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), encoder);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that compress, but not to nothing.
pub(super) fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 0x8f
    });
    noise.take(length).collect()
}

/// All that comes out of a stream.
pub(super) fn expand(compression: Compression, stream: &[u8], limits: Limits) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Expander::new(compression, stream, limits, 2)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
