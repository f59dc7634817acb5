//! The index at the end of an xz stream: how long each block is, compressed and expanded.

use flate2::Crc;

/// Bytes of the header of a stream, and of its footer.
pub(super) const END: u64 = 12;
/// The smallest block that an index may tell of, in bytes.
const SMALLEST_BLOCK: u64 = 5;

/// Bytes of the index, by the footer that follows it.
pub(super) fn index_length(footer: &[u8]) -> Option<u64> {
    let [c0, c1, c2, c3, b0, b1, b2, b3, flags0, flags1, b'Y', b'Z'] = footer else { return None };
    let mut crc = Crc::new();
    crc.update(&[*b0, *b1, *b2, *b3, *flags0, *flags1]);
    if crc.sum() != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
        return None;
    }
    Some((u64::from(u32::from_le_bytes([*b0, *b1, *b2, *b3])) + 1) * 4)
}

/// What an index says of all blocks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    /// Bytes that they take up in the stream.
    pub(super) compressed: u64,
    /// Bytes that come out of them.
    pub(super) expanded: u64,
}

/// Adds up an index, if it is whole.
pub(super) fn totals(index: &[u8]) -> Option<Totals> {
    let (content, checksum) = index.split_last_chunk::<4>()?;
    let mut crc = Crc::new();
    crc.update(content);
    if crc.sum() != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (0, mut rest) = content.split_first().map(|(first, rest)| (*first, rest))? else { return None };
    let count = number(&mut rest)?;
    let mut totals = Totals { compressed: 0, expanded: 0 };
    // Each record takes two bytes at least, so that the length of the index bounds this.
    for _ in 0..count {
        let unpadded = number(&mut rest).filter(|size| *size >= SMALLEST_BLOCK)?;
        totals.compressed = totals.compressed.checked_add(unpadded.checked_next_multiple_of(4)?)?;
        totals.expanded = totals.expanded.checked_add(number(&mut rest)?)?;
    }
    (rest.len() < 4 && rest.iter().all(|byte| *byte == 0)).then_some(totals)
}

/// A number of variable length: seven bits in each byte, the lowest first, the high bit set in all but the last.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for position in 0..9 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (position * 7);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_ends_with_the_first_byte_without_the_high_bit() {
        assert_eq!(number(&mut [0x7f].as_slice()), Some(127));
        assert_eq!(number(&mut [0x80, 0x01, 9].as_slice()), Some(128));
        assert_eq!(number(&mut [0x80].as_slice()), None);
        assert_eq!(number(&mut [0xff; 12].as_slice()), None);
    }
}
