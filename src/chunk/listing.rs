//! [`Listed`]: which chunks a blob is made of, as one process tells another.
//!
//! ```text
//! a run of zeros      0, their number                        1 and 8 bytes; numbers are little-endian
//! a chunk             1, its bytes, blake3 of them           1, 8 and 32 bytes
//! anything else       2, its bytes                           1 and 8 bytes
//! ```
//!
//! One behind the other they are the blob. Whoever has an older version of a disk finds out what is new in the blob without
//! reading it; that what comes out is the blob is checked by the blob's own digest.

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::ChunkId;

/// What a listing is called on the wire.
pub const LISTING: &str = "application/vnd.dvcr.chunks.v1";

/// A stretch of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// So many zeros.
    Zeros(u64),
    /// A chunk.
    Chunk {
        /// Its hash.
        id: ChunkId,
        /// Its bytes.
        length: u64,
    },
    /// So many bytes of which no more is known.
    Other(u64),
}

/// The bytes are no listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no listing of chunks")]
pub struct InvalidListing;

const ZEROS: u8 = 0;
const CHUNK: u8 = 1;
const OTHER: u8 = 2;

/// Bytes of a kind and a length.
const HEAD: usize = 9;
const ID: usize = 32;

impl Listed {
    /// Bytes of the blob.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Zeros(length) | Self::Chunk { length, .. } | Self::Other(length) => *length,
        }
    }

    /// Adds it to a listing.
    pub fn encode(&self, listing: &mut BytesMut) {
        let kind = match self {
            Self::Zeros(_) => ZEROS,
            Self::Chunk { .. } => CHUNK,
            Self::Other(_) => OTHER,
        };
        listing.put_u8(kind);
        listing.put_u64_le(self.length());
        if let Self::Chunk { id, .. } = self {
            listing.put_slice(id.as_bytes());
        }
    }

    /// Takes the next one off a listing; `None` where it has not come whole.
    pub fn decode(listing: &mut BytesMut) -> Result<Option<Self>, InvalidListing> {
        let Some(kind) = listing.first().copied() else { return Ok(None) };
        let needed = match kind {
            CHUNK => HEAD + ID,
            ZEROS | OTHER => HEAD,
            _ => return Err(InvalidListing),
        };
        if listing.len() < needed {
            return Ok(None);
        }
        listing.advance(1);
        let length = listing.get_u64_le();
        Ok(Some(match kind {
            ZEROS => Self::Zeros(length),
            CHUNK => {
                let mut id = [0; ID];
                listing.copy_to_slice(&mut id);
                Self::Chunk { id: ChunkId::new(id), length }
            }
            _ => Self::Other(length),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed() -> impl Strategy<Value = Listed> {
        prop_oneof![
            any::<u64>().prop_map(Listed::Zeros),
            (any::<[u8; 32]>(), any::<u64>())
                .prop_map(|(id, length)| Listed::Chunk { id: ChunkId::new(id), length }),
            any::<u64>().prop_map(Listed::Other),
        ]
    }

    proptest! {
        #[test]
        fn a_listing_reads_the_same_in_any_pieces(
            entries in proptest::collection::vec(listed(), 0..20),
            piece in 1_usize..100,
        ) {
            let mut listing = BytesMut::new();
            for entry in &entries {
                entry.encode(&mut listing);
            }
            let (mut come, mut found) = (BytesMut::new(), Vec::new());
            for piece in listing.chunks(piece) {
                come.extend_from_slice(piece);
                while let Some(entry) = Listed::decode(&mut come).unwrap() {
                    found.push(entry);
                }
            }
            prop_assert!(come.is_empty());
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn what_is_no_listing_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut listing = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Listed::decode(&mut listing) {}
        }
    }
}
