//! [`Frame`]: the bytes of a blob on their way to a registry that has most of them.
//!
//! ```text
//! data      0, their number, and the bytes                      1 and 8 bytes, and so many; numbers are little-endian
//! zeros     1, their number                                     1 and 8 bytes
//! source    2, bytes of the name, the name                      1 and 2 bytes, and so many
//! copy      3, where in the source, how many bytes              1, 8 and 8 bytes
//! ```
//!
//! One behind the other they are what follows in the upload. A source is a blob of a repository, `<repository>@<digest>`: the
//! copies behind it are out of it, up to the next source. It has to be named by where it may be read, so that nobody learns by
//! a delta what is in other repositories. What comes out is checked by the digest of the blob that is uploaded.

use bytes::{Buf as _, BufMut as _, BytesMut};

/// What a body of frames is called on the wire.
pub const DELTA: &str = "application/vnd.dvcr.delta.v1";

/// Bytes that one frame stands for, at most: between two frames the receiver notices that the sender is gone.
pub const MAX_FRAME: u64 = 1 << 30;

/// What comes next in a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// So many bytes, which follow.
    Data(u64),
    /// So many zeros.
    Zeros(u64),
    /// The copies from here on are out of this blob, `<repository>@<digest>`.
    Source(String),
    /// Bytes of the source.
    Copy {
        /// Where they are in the source.
        offset: u64,
        /// How many they are.
        length: u64,
    },
}

/// The bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    /// It is of no known kind.
    #[error("there is no frame of kind {0}")]
    Kind(u8),
    /// It stands for too much.
    #[error("a frame stands for {length} bytes; {MAX_FRAME} is the most")]
    TooLong {
        /// Bytes.
        length: u64,
    },
    /// The name of a source is no text.
    #[error("the name of a source is not UTF-8")]
    Name,
}

const DATA: u8 = 0;
const ZEROS: u8 = 1;
const SOURCE: u8 = 2;
const COPY: u8 = 3;

impl Frame {
    /// Adds it to a body. The bytes of [`Frame::Data`] follow.
    pub fn encode(&self, body: &mut BytesMut) {
        match self {
            Self::Data(length) => {
                body.put_u8(DATA);
                body.put_u64_le(*length);
            }
            Self::Zeros(length) => {
                body.put_u8(ZEROS);
                body.put_u64_le(*length);
            }
            Self::Source(name) => {
                body.put_u8(SOURCE);
                // A repository's name and a digest have some hundred bytes.
                body.put_u16_le(u16::try_from(name.len()).unwrap_or(u16::MAX));
                body.put_slice(name.as_bytes());
            }
            Self::Copy { offset, length } => {
                body.put_u8(COPY);
                body.put_u64_le(*offset);
                body.put_u64_le(*length);
            }
        }
    }

    /// Takes the next one off a body; `None` where it has not come whole.
    pub fn decode(body: &mut BytesMut) -> Result<Option<Self>, InvalidFrame> {
        let Some((kind, mut rest)) = body.split_first() else { return Ok(None) };
        let kind = *kind;
        let needed = match kind {
            DATA | ZEROS => 8,
            COPY => 16,
            SOURCE if rest.len() < 2 => return Ok(None),
            SOURCE => 2 + usize::from(rest.get_u16_le()),
            kind => return Err(InvalidFrame::Kind(kind)),
        };
        if body.len() <= needed {
            return Ok(None);
        }
        body.advance(1);
        let frame = match kind {
            DATA => Self::Data(body.get_u64_le()),
            ZEROS => Self::Zeros(body.get_u64_le()),
            COPY => Self::Copy { offset: body.get_u64_le(), length: body.get_u64_le() },
            _ => {
                let name = body.split_to(needed);
                let name = std::str::from_utf8(&name[2..]).map_err(|_| InvalidFrame::Name)?;
                Self::Source(name.to_owned())
            }
        };
        match frame.length() {
            length if length > MAX_FRAME => Err(InvalidFrame::TooLong { length }),
            _ => Ok(Some(frame)),
        }
    }

    /// Bytes of the blob.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Data(length) | Self::Zeros(length) | Self::Copy { length, .. } => *length,
            Self::Source(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            (0..=MAX_FRAME).prop_map(Frame::Data),
            (0..=MAX_FRAME).prop_map(Frame::Zeros),
            "[a-z/]{0,40}@sha256:[0-9a-f]{64}".prop_map(Frame::Source),
            (any::<u64>(), 0..=MAX_FRAME).prop_map(|(offset, length)| Frame::Copy { offset, length }),
        ]
    }

    proptest! {
        #[test]
        fn frames_read_the_same_in_any_pieces(
            frames in proptest::collection::vec(frame(), 0..20),
            piece in 1_usize..100,
        ) {
            let mut body = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut body);
            }
            let (mut come, mut found) = (BytesMut::new(), Vec::new());
            for piece in body.chunks(piece) {
                come.extend_from_slice(piece);
                while let Some(frame) = Frame::decode(&mut come).unwrap() {
                    found.push(frame);
                }
            }
            prop_assert!(come.is_empty());
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn what_is_no_frame_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut body = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut body) {}
        }
    }

    #[test]
    fn a_frame_that_stands_for_too_much_is_refused() {
        for frame in [
            Frame::Data(MAX_FRAME + 1),
            Frame::Zeros(u64::MAX),
            Frame::Copy { offset: 0, length: MAX_FRAME + 1 },
        ] {
            let mut body = BytesMut::new();
            frame.encode(&mut body);
            assert_eq!(Frame::decode(&mut body), Err(InvalidFrame::TooLong { length: frame.length() }));
        }
    }
}
