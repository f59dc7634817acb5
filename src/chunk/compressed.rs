//! What has no chunks in common with anything, and so is not worth cutting.

use bytes::Bytes;

/// How compressed streams begin: gzip, zstd, xz, bzip2, lz4.
const MAGICS: [&[u8]; 5] = [
    &[0x1f, 0x8b],
    &[0x28, 0xb5, 0x2f, 0xfd],
    &[0xfd, b'7', b'z', b'X', b'Z', 0],
    b"BZh",
    &[4, 0x22, 0x4d, 0x18],
];

/// Whether a blob that begins with these pieces is one compressed stream.
#[must_use]
pub fn is_compressed(pieces: &[Bytes]) -> bool {
    let first: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).take(8).collect();
    MAGICS.iter().any(|magic| first.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_by_its_first_bytes_however_they_came() {
        let pieces =
            |bytes: &[u8]| bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])).collect::<Vec<_>>();
        assert!(is_compressed(&pieces(&[0x1f, 0x8b, 8, 0])));
        assert!(is_compressed(&[Bytes::from_static(&[0x28, 0xb5, 0x2f, 0xfd, 1])]));
        assert!(!is_compressed(&pieces(b"disk/")));
        assert!(!is_compressed(&[]));
    }
}
