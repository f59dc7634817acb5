//! A recipe: what a stretch of a blob is made of, chunk by chunk, and where the chunks are.
//!
//! Binary, because it has an entry for some 64 KiB of every disk: 48 bytes each, 0.07% of what they describe. A recipe
//! names places in packs and no hashes that would have to be looked up, so a blob is read without the index. It also
//! holds the hash of each chunk: what is read is checked, and a lost index is made again from recipes.
//!
//! ```text
//! "DVCRrec1"                                                    8 bytes
//! number of own packs, of packs, of entries                     4 bytes each; all numbers are little-endian
//! packs: UUID, the own ones first                               16 bytes each
//! entries: blake3 of the chunk                                  32 bytes
//!          pack, offset in it, bytes stored, bytes              4 bytes each
//! blake3 of everything above                                    32 bytes
//! ```
//!
//! An own pack was written for the blob of the recipe, and goes with it when the upload is given up. A chunk of which fewer
//! bytes are stored than it has is a frame of zstd. Zeros have the pack `0xffff_ffff`, and their number in the first eight
//! bytes of the hash.

use std::collections::HashMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use crate::chunk::{ChunkId, MAX_CHUNK};

/// Entries in one recipe, at most: some 256 MiB of a disk, in 200 KiB.
pub(super) const MAX_ENTRIES: usize = 4096;

const MAGIC: &[u8; 8] = b"DVCRrec1";
const HEADER: usize = 20;
const PACK: usize = 16;
const ENTRY: usize = 48;
const CHECKSUM: usize = 32;

/// The pack number of zeros.
const ZEROS: u32 = u32::MAX;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: Uuid,
    pub(super) offset: u32,
    /// Bytes in the pack.
    pub(super) stored: u32,
    /// Bytes of the chunk; more than are stored, if it is compressed.
    pub(super) length: u32,
}

/// A stretch of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Chunk { id: ChunkId, place: Place },
    Zeros(u64),
}

impl Entry {
    /// Bytes of the blob.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Chunk { place, .. } => place.length.into(),
            Self::Zeros(length) => *length,
        }
    }
}

/// What a stretch of a blob is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recipe {
    /// The packs that were written for it.
    own: Vec<Uuid>,
    entries: Vec<Entry>,
}

/// Bytes are no recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no recipe: {0}")]
pub(super) struct InvalidRecipe(&'static str);

impl Recipe {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Packs that were written for the blob of this recipe.
    pub(super) fn own_packs(&self) -> &[Uuid] {
        &self.own
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES
    }

    /// Bytes of the blob.
    pub(super) fn length(&self) -> u64 {
        self.entries.iter().map(Entry::length).sum()
    }

    /// Adds what comes next. Zeros behind zeros are one run.
    pub(super) fn push(&mut self, entry: Entry) {
        if let (Some(Entry::Zeros(before)), Entry::Zeros(more)) = (self.entries.last_mut(), entry) {
            *before = before.saturating_add(more);
            return;
        }
        self.entries.push(entry);
    }

    /// Says of a pack that it was written for this blob.
    pub(super) fn owns(&mut self, pack: Uuid) {
        if !self.own.contains(&pack) {
            self.own.push(pack);
        }
    }

    /// The bytes to store.
    pub(super) fn encode(&self) -> Bytes {
        let mut packs = self.own.clone();
        let mut numbers: HashMap<Uuid, u32> =
            packs.iter().zip(0..).map(|(pack, number)| (*pack, number)).collect();
        for entry in &self.entries {
            if let Entry::Chunk { place, .. } = entry {
                numbers.entry(place.pack).or_insert_with(|| {
                    packs.push(place.pack);
                    count(packs.len() - 1)
                });
            }
        }
        let length = HEADER + packs.len() * PACK + self.entries.len() * ENTRY + CHECKSUM;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(MAGIC);
        for number in [self.own.len(), packs.len(), self.entries.len()] {
            bytes.put_u32_le(count(number));
        }
        for pack in &packs {
            bytes.put_slice(pack.as_bytes());
        }
        for entry in &self.entries {
            match entry {
                Entry::Chunk { id, place } => {
                    bytes.put_slice(id.as_bytes());
                    bytes.put_u32_le(numbers.get(&place.pack).copied().unwrap_or(ZEROS));
                    bytes.put_u32_le(place.offset);
                    bytes.put_u32_le(place.stored);
                    bytes.put_u32_le(place.length);
                }
                Entry::Zeros(length) => {
                    bytes.put_u64_le(*length);
                    bytes.put_bytes(0, 24);
                    bytes.put_u32_le(ZEROS);
                    bytes.put_bytes(0, 12);
                }
            }
        }
        let checksum = ChunkId::of(&bytes);
        bytes.put_slice(checksum.as_bytes());
        bytes.freeze()
    }

    /// The recipe in these bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, InvalidRecipe> {
        let (content, checksum) =
            bytes.split_last_chunk::<CHECKSUM>().ok_or(InvalidRecipe("it is too short"))?;
        if ChunkId::of(content).as_bytes() != checksum {
            return Err(InvalidRecipe("it is damaged, or of a later version"));
        }
        let mut rest = content.strip_prefix(MAGIC).ok_or(InvalidRecipe("it is of a later version"))?;
        if rest.len() < HEADER - MAGIC.len() {
            return Err(InvalidRecipe("it is too short"));
        }
        let mut number = || usize::try_from(rest.get_u32_le()).unwrap_or(usize::MAX);
        let (own, packs, entries) = (number(), number(), number());
        let expected =
            packs.checked_mul(PACK).zip(entries.checked_mul(ENTRY)).map(|(a, b)| a.saturating_add(b));
        if expected != Some(rest.len()) || own > packs {
            return Err(InvalidRecipe("its numbers contradict its length"));
        }
        let (packs, entries) = rest.split_at(packs * PACK);
        let packs: Vec<Uuid> = packs.as_chunks::<PACK>().0.iter().map(|id| Uuid::from_bytes(*id)).collect();
        let entries = entries.as_chunks::<ENTRY>().0.iter().map(|entry| decode_entry(entry, &packs));
        Ok(Self { entries: entries.collect::<Result<_, _>>()?, own: packs[..own].to_vec() })
    }
}

fn decode_entry(entry: &[u8; ENTRY], packs: &[Uuid]) -> Result<Entry, InvalidRecipe> {
    let (mut id, mut numbers) = entry.split_at(32);
    let pack = numbers.get_u32_le();
    if pack == ZEROS {
        return Ok(Entry::Zeros(id.get_u64_le()));
    }
    let pack = usize::try_from(pack).ok().and_then(|number| packs.get(number));
    let pack = *pack.ok_or(InvalidRecipe("it names a pack that it does not list"))?;
    let place = Place {
        pack,
        offset: numbers.get_u32_le(),
        stored: numbers.get_u32_le(),
        length: numbers.get_u32_le(),
    };
    if place.stored > place.length || place.length > MAX_CHUNK {
        return Err(InvalidRecipe("a chunk has an impossible length"));
    }
    let id = id.try_into().map_err(|_| InvalidRecipe("it is too short"))?;
    Ok(Entry::Chunk { id: ChunkId::new(id), place })
}

/// Numbers in a recipe are bounded by the number of its entries.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(number: u8, pack: u128) -> Entry {
        let place = Place { pack: Uuid::from_u128(pack), offset: 7, stored: 100, length: 65_536 };
        Entry::Chunk { id: ChunkId::of(&[number]), place }
    }

    fn recipe() -> Recipe {
        let mut recipe = Recipe::default();
        recipe.owns(Uuid::from_u128(9));
        for entry in [chunk(1, 9), Entry::Zeros(5_000_000_000), chunk(2, 8), chunk(3, 9)] {
            recipe.push(entry);
        }
        recipe
    }

    #[test]
    fn a_recipe_reads_as_it_was_written() {
        for recipe in [Recipe::default(), recipe()] {
            assert_eq!(Recipe::decode(&recipe.encode()), Ok(recipe));
        }
        assert_eq!(recipe().length(), 3 * 65_536 + 5_000_000_000);
        assert_eq!(recipe().own_packs(), [Uuid::from_u128(9)]);
    }

    #[test]
    fn zeros_behind_zeros_are_one_entry() {
        let mut recipe = recipe();
        recipe.push(Entry::Zeros(1));
        recipe.push(Entry::Zeros(2));
        assert_eq!(recipe.entries().last(), Some(&Entry::Zeros(3)));
    }

    #[test]
    fn the_format_stays_what_it_is() {
        let bytes = recipe().encode();
        assert_eq!(bytes.len(), 20 + 2 * 16 + 4 * 48 + 32);
        assert_eq!(
            ChunkId::of(&bytes).to_string(),
            "03f91ad6657a3152c1cfabd4124ad55ba8057de491a7129f2ab7734261fce75a"
        );
    }

    #[test]
    fn a_recipe_that_is_damaged_anywhere_is_refused() {
        let bytes = recipe().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(Recipe::decode(&damaged).is_err(), "byte {at}");
            assert!(Recipe::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_reading_them_does_not_panic(content in proptest::collection::vec(any::<u8>(), 0..400)) {
            let whole = [MAGIC.as_slice(), &content].concat();
            let signed = [whole.as_slice(), ChunkId::of(&whole).as_bytes()].concat();
            let _ = Recipe::decode(&signed);
        }
    }
}
