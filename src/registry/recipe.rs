//! A recipe: what a stretch of a blob is made of, chunk by chunk, and where the chunks are.
//!
//! It names places in packs and no hashes that would have to be looked up, so a blob is read without the index. It also
//! holds the hash of each chunk: what is read is checked, and a lost index is made again from recipes. The entries are in
//! [pages](super::recipe_page), which lie in packs like chunks; the recipe itself is the list of pages:
//!
//! ```text
//! "DVCRrec2"                                                    8 bytes
//! number of own packs, of packs, of pages                       4 bytes each; all numbers are little-endian
//! packs: UUID, the own ones first                               16 bytes each
//! pages: blake3                                                 32 bytes
//!        pack, offset in it, bytes                              4 bytes each
//! blake3 of everything above                                    32 bytes
//! ```
//!
//! An own pack was written for the blob of the recipe, and goes with it when the upload is given up. A chunk of which fewer
//! bytes are stored than it has is a frame of zstd; a page is stored as it is.

use std::collections::HashMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use crate::chunk::{ChunkId, MAX_CHUNK};

/// Entries in one recipe, at most: some 128 MiB of a disk.
pub(super) const MAX_ENTRIES: usize = 4096;

const MAGIC: &[u8; 8] = b"DVCRrec2";
const HEADER: usize = 20;
const PACK: usize = 16;
const PAGE: usize = 44;
const CHECKSUM: usize = 32;

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
    entries: Vec<Entry>,
}

/// A recipe as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PagedRecipe {
    /// The packs that were written for it.
    pub(super) own: Vec<Uuid>,
    pub(super) pages: Vec<Page>,
}

/// A page of a recipe. As many bytes are stored as it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) id: ChunkId,
    pub(super) place: Place,
}

/// Bytes are no recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no recipe: {0}")]
pub(super) struct InvalidRecipe(pub(super) &'static str);

impl Place {
    /// Where in the pack what is behind it begins.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored)
    }

    /// Whether a chunk can be like this.
    pub(super) fn is_possible(&self) -> bool {
        self.stored <= self.length && self.length <= MAX_CHUNK
    }
}

impl Recipe {
    /// Of these entries.
    pub(super) fn of(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
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
}

impl PagedRecipe {
    /// Says of a pack that it was written for the blob.
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
        for Page { place, .. } in &self.pages {
            numbers.entry(place.pack).or_insert_with(|| {
                packs.push(place.pack);
                count(packs.len() - 1)
            });
        }
        let length = HEADER + packs.len() * PACK + self.pages.len() * PAGE + CHECKSUM;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(MAGIC);
        for number in [self.own.len(), packs.len(), self.pages.len()] {
            bytes.put_u32_le(count(number));
        }
        for pack in &packs {
            bytes.put_slice(pack.as_bytes());
        }
        for Page { id, place } in &self.pages {
            bytes.put_slice(id.as_bytes());
            bytes.put_u32_le(numbers.get(&place.pack).copied().unwrap_or(u32::MAX));
            bytes.put_u32_le(place.offset);
            bytes.put_u32_le(place.stored);
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
            return Err(InvalidRecipe("it is damaged, or of another version"));
        }
        let mut rest = content.strip_prefix(MAGIC).ok_or(InvalidRecipe("it is of another version"))?;
        if rest.len() < HEADER - MAGIC.len() {
            return Err(InvalidRecipe("it is too short"));
        }
        let mut number = || usize::try_from(rest.get_u32_le()).unwrap_or(usize::MAX);
        let (own, packs, pages) = (number(), number(), number());
        let expected = packs.checked_mul(PACK).zip(pages.checked_mul(PAGE)).map(|(a, b)| a.saturating_add(b));
        if expected != Some(rest.len()) || own > packs {
            return Err(InvalidRecipe("its numbers contradict its length"));
        }
        let (packs, pages) = rest.split_at(packs * PACK);
        let packs: Vec<Uuid> = packs.as_chunks::<PACK>().0.iter().map(|id| Uuid::from_bytes(*id)).collect();
        let pages = pages.as_chunks::<PAGE>().0.iter().map(|page| decode_page(page, &packs));
        Ok(Self { pages: pages.collect::<Result<_, _>>()?, own: packs[..own].to_vec() })
    }
}

fn decode_page(page: &[u8; PAGE], packs: &[Uuid]) -> Result<Page, InvalidRecipe> {
    let (id, mut numbers) = page.split_at(32);
    let pack = usize::try_from(numbers.get_u32_le()).ok().and_then(|number| packs.get(number));
    let pack = *pack.ok_or(InvalidRecipe("it names a pack that it does not list"))?;
    let (offset, stored) = (numbers.get_u32_le(), numbers.get_u32_le());
    let place = Place { pack, offset, stored, length: stored };
    if !place.is_possible() {
        return Err(InvalidRecipe("a page has an impossible length"));
    }
    let id = id.try_into().map_err(|_| InvalidRecipe("it is too short"))?;
    Ok(Page { id: ChunkId::new(id), place })
}

/// Numbers in a recipe are bounded by the number of its entries.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(number: u8, pack: u128) -> Page {
        let place = Place { pack: Uuid::from_u128(pack), offset: 7, stored: 1000, length: 1000 };
        Page { id: ChunkId::of(&[number]), place }
    }

    fn recipe() -> PagedRecipe {
        PagedRecipe { own: vec![Uuid::from_u128(9)], pages: vec![page(1, 9), page(2, 8), page(3, 9)] }
    }

    #[test]
    fn a_recipe_reads_as_it_was_written() {
        for recipe in [PagedRecipe::default(), recipe()] {
            assert_eq!(PagedRecipe::decode(&recipe.encode()), Ok(recipe));
        }
    }

    #[test]
    fn zeros_behind_zeros_are_one_entry() {
        let mut recipe = Recipe::default();
        recipe.push(Entry::Zeros(1));
        recipe.push(Entry::Zeros(2));
        assert_eq!(recipe.entries(), [Entry::Zeros(3)]);
        assert_eq!(recipe.length(), 3);
    }

    #[test]
    fn the_format_stays_what_it_is() {
        let bytes = recipe().encode();
        assert_eq!(bytes.len(), 20 + 2 * 16 + 3 * 44 + 32);
        assert_eq!(
            ChunkId::of(&bytes).to_string(),
            "cf8c496d84e186fa47ab8996f1ea5097899b6f37baf30f38fe2d70bfd9ccaf97"
        );
    }

    #[test]
    fn a_recipe_that_is_damaged_anywhere_is_refused() {
        let bytes = recipe().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(PagedRecipe::decode(&damaged).is_err(), "byte {at}");
            assert!(PagedRecipe::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_reading_them_does_not_panic(content in proptest::collection::vec(any::<u8>(), 0..400)) {
            let whole = [MAGIC.as_slice(), &content].concat();
            let signed = [whole.as_slice(), ChunkId::of(&whole).as_bytes()].concat();
            let _ = PagedRecipe::decode(&signed);
        }
    }
}
