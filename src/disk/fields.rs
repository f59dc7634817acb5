//! Numbers out of headers, read so that a short header is a [`Refusal::Truncated`] and never a panic.

use super::{Format, Refusal};

/// The beginning of an image, as a format reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    format: Format,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads `bytes`, which begin the image; they are all of it if a field turns out to lie beyond them.
    pub(super) fn new(format: Format, bytes: &'a [u8]) -> Self {
        Self { format, bytes }
    }

    /// `count` bytes at `at`.
    pub(super) fn slice(&self, at: usize, count: usize) -> Result<&'a [u8], Refusal> {
        let end = at.saturating_add(count);
        self.bytes.get(at..end).ok_or(Refusal::Truncated {
            format: self.format,
            needs: end as u64,
            has: self.bytes.len() as u64,
        })
    }

    /// `N` bytes at `at`.
    pub(super) fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(at, N)?);
        Ok(array)
    }

    /// A byte.
    pub(super) fn byte(&self, at: usize) -> Result<u8, Refusal> {
        self.array(at).map(u8::from_be_bytes)
    }

    /// Big-endian, 16 bits.
    pub(super) fn be16(&self, at: usize) -> Result<u16, Refusal> {
        self.array(at).map(u16::from_be_bytes)
    }

    /// Big-endian, 32 bits.
    pub(super) fn be32(&self, at: usize) -> Result<u32, Refusal> {
        self.array(at).map(u32::from_be_bytes)
    }

    /// Big-endian, 64 bits.
    pub(super) fn be64(&self, at: usize) -> Result<u64, Refusal> {
        self.array(at).map(u64::from_be_bytes)
    }

    /// Little-endian, 16 bits.
    pub(super) fn le16(&self, at: usize) -> Result<u16, Refusal> {
        self.array(at).map(u16::from_le_bytes)
    }

    /// Little-endian, 32 bits.
    pub(super) fn le32(&self, at: usize) -> Result<u32, Refusal> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// Little-endian, 64 bits.
    pub(super) fn le64(&self, at: usize) -> Result<u64, Refusal> {
        self.array(at).map(u64::from_le_bytes)
    }
}

/// The big-endian numbers of 32 bits in a table.
pub(super) fn be32s(table: &[u8]) -> impl Iterator<Item = u32> {
    table.as_chunks().0.iter().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The little-endian numbers of 32 bits in a table.
pub(super) fn le32s(table: &[u8]) -> impl Iterator<Item = u32> {
    table.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The big-endian numbers of 64 bits in a table.
pub(super) fn be64s(table: &[u8]) -> impl Iterator<Item = u64> {
    table.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The little-endian numbers of 64 bits in a table.
pub(super) fn le64s(table: &[u8]) -> impl Iterator<Item = u64> {
    table.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Text out of a header, for a message: up to the first zero, bounded, with what is no UTF-8 replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()).min(1023);
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_beyond_the_end_is_a_cut_image() {
        let fields = Fields::new(Format::Vdi, &[1, 2, 3, 4]);
        assert_eq!(fields.le32(0), Ok(0x0403_0201));
        assert_eq!(fields.be32(0), Ok(0x0102_0304));
        assert_eq!(fields.le16(3), Err(Refusal::Truncated { format: Format::Vdi, needs: 5, has: 4 }));
        assert!(fields.slice(usize::MAX, 2).is_err());
    }

    #[test]
    fn text_ends_at_the_first_zero_and_is_bounded() {
        assert_eq!(text(b"base.img\0rest"), "base.img");
        assert_eq!(text(&[0xff]), "\u{fffd}");
        assert_eq!(text(&[b'a'; 5000]).len(), 1023);
    }
}
