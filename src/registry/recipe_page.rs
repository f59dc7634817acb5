//! Pages of recipes: some entries each, stored once like the chunks that they name.
//!
//! Versions of a disk have most of their chunks in common, and so most of the list of them. Where a page ends depends on the
//! chunks in it and not on how many came before, so that a change makes one page new and not all behind it.
//!
//! ```text
//! number of packs                                       all numbers are LEB128
//! packs: UUID                                           16 bytes each
//! entries, one behind the other to the end:
//!   0, number of zeros
//!   number of the pack, from 1 on
//!     blake3 of the chunk                               32 bytes
//!     0 if it is behind the entry before it in the pack; else its offset and 1
//!     bytes stored
//!     bytes: of whole blocks twice their number and 1; else twice the bytes
//! ```
//!
//! An entry takes 38 bytes as a rule. A page is called by its blake3, and checked against it when it is read.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use super::recipe::{Entry, InvalidRecipe, Place};
use crate::chunk::{BLOCK, ChunkId};

/// Entries in a page, on average. With fewer a change makes less new, and there are more pages to list.
const AVERAGE: u8 = 32;

/// Entries in a page, at most.
const MOST: usize = 128;

/// The entries of each page.
pub(super) fn pages(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let is_last = |entry: &Entry| match entry {
        Entry::Chunk { id, .. } => id.as_bytes()[0].is_multiple_of(AVERAGE),
        Entry::Zeros(_) => false,
    };
    entries.split_inclusive(is_last).flat_map(|page| page.chunks(MOST))
}

/// The bytes of a page.
pub(super) fn encode(entries: &[Entry]) -> Bytes {
    let mut packs: Vec<Uuid> = Vec::new();
    let mut body = BytesMut::new();
    let mut behind = Vec::new();
    for entry in entries {
        match entry {
            Entry::Zeros(length) => {
                put(&mut body, 0);
                put(&mut body, *length);
            }
            Entry::Chunk { id, place } => {
                let number = packs.iter().position(|pack| *pack == place.pack).unwrap_or_else(|| {
                    packs.push(place.pack);
                    behind.push(None);
                    packs.len() - 1
                });
                put(&mut body, number as u64 + 1);
                body.put_slice(id.as_bytes());
                let offset = u64::from(place.offset);
                put(&mut body, if behind[number] == Some(offset) { 0 } else { offset + 1 });
                behind[number] = Some(offset + u64::from(place.stored));
                put(&mut body, place.stored.into());
                let (length, block) = (u64::from(place.length), BLOCK as u64);
                let whole = length.is_multiple_of(block);
                put(&mut body, if whole { length / block * 2 + 1 } else { length * 2 });
            }
        }
    }
    let mut page = BytesMut::new();
    put(&mut page, packs.len() as u64);
    for pack in &packs {
        page.put_slice(pack.as_bytes());
    }
    page.unsplit(body);
    page.freeze()
}

/// Reads the page `id`, and adds its entries.
pub(super) fn decode(id: &ChunkId, mut page: &[u8], entries: &mut Vec<Entry>) -> Result<(), InvalidRecipe> {
    if ChunkId::of(page) != *id {
        return Err(InvalidRecipe("a page of it is damaged"));
    }
    let number = usize::try_from(take(&mut page)?).unwrap_or(usize::MAX);
    let listed = number.checked_mul(size_of::<Uuid>()).and_then(|length| page.split_at_checked(length));
    let (listed, mut rest) = listed.ok_or(InvalidRecipe("a page of it is too short"))?;
    let packs: Vec<Uuid> = listed.as_chunks().0.iter().map(|id| Uuid::from_bytes(*id)).collect();
    let mut behind: Vec<u32> = vec![0; packs.len()];
    while !rest.is_empty() {
        let Some(number) = take(&mut rest)?.checked_sub(1) else {
            entries.push(Entry::Zeros(take(&mut rest)?));
            continue;
        };
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let (Some(pack), Some(behind)) = (packs.get(number), behind.get_mut(number)) else {
            return Err(InvalidRecipe("it names a pack that it does not list"));
        };
        let (id, after) = rest.split_first_chunk().ok_or(InvalidRecipe("a page of it is too short"))?;
        rest = after;
        let offset = match take(&mut rest)?.checked_sub(1) {
            None => *behind,
            Some(offset) => narrow(offset)?,
        };
        let stored = narrow(take(&mut rest)?)?;
        let length = match take(&mut rest)? {
            blocks if blocks % 2 == 1 => (blocks / 2).saturating_mul(BLOCK as u64),
            bytes => bytes / 2,
        };
        let place = Place { pack: *pack, offset, stored, length: narrow(length)? };
        if !place.is_possible() {
            return Err(InvalidRecipe("a chunk has an impossible length"));
        }
        *behind = offset.saturating_add(stored);
        entries.push(Entry::Chunk { id: ChunkId::new(*id), place });
    }
    Ok(())
}

fn narrow(number: u64) -> Result<u32, InvalidRecipe> {
    number.try_into().map_err(|_| InvalidRecipe("a number in it is impossible"))
}

fn put(bytes: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        bytes.put_u8(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.put_u8(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Result<u64, InvalidRecipe> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().map_err(|_| InvalidRecipe("a page of it is too short"))?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(InvalidRecipe("a number in it is impossible"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::MAX_CHUNK;

    fn entry() -> impl Strategy<Value = Entry> {
        let chunk = (any::<[u8; 32]>(), 0..4_u128, any::<u32>(), 1..=MAX_CHUNK, any::<bool>(), any::<u32>());
        let chunk = chunk.prop_map(|(id, pack, offset, length, whole, stored)| {
            let length = if whole { length.next_multiple_of(4096) } else { length };
            let place = Place { pack: Uuid::from_u128(pack), offset, stored: stored % length, length };
            Entry::Chunk { id: ChunkId::new(id), place }
        });
        prop_oneof![3 => chunk, 1 => any::<u64>().prop_map(Entry::Zeros)]
    }

    /// Chunks that lie behind one another, as most do.
    fn row(numbers: std::ops::Range<u32>) -> Vec<Entry> {
        let chunk = |number: u32| {
            let place = Place { pack: Uuid::from_u128(7), offset: number * 1000, stored: 1000, length: 8192 };
            Entry::Chunk { id: ChunkId::of(&number.to_le_bytes()), place }
        };
        numbers.map(chunk).collect()
    }

    fn read(page: &[u8]) -> Result<Vec<Entry>, InvalidRecipe> {
        let mut entries = Vec::new();
        decode(&ChunkId::of(page), page, &mut entries)?;
        Ok(entries)
    }

    proptest! {
        #[test]
        fn pages_one_behind_the_other_are_the_entries(entries in proptest::collection::vec(entry(), 0..300)) {
            let mut found = Vec::new();
            for page in pages(&entries) {
                prop_assert!(page.len() <= MOST);
                let page = encode(page);
                prop_assert!(page.len() < 16 << 10);
                decode(&ChunkId::of(&page), &page, &mut found).unwrap();
            }
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn what_is_no_page_is_an_error_and_no_panic(page in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&page);
        }
    }

    #[test]
    fn a_change_makes_one_page_new() {
        let before = row(0..3000);
        let mut after = before.clone();
        after.splice(1500..1501, row(9000..9003));
        let encoded = |entries: &[Entry]| -> Vec<Bytes> { pages(entries).map(encode).collect() };
        let before = encoded(&before);
        let new = encoded(&after).into_iter().filter(|page| !before.contains(page)).count();
        assert!((1..=2).contains(&new), "{new} of {} pages are new", before.len());
        assert!((2 * 3000 / 5 / 32..2 * 3000 / 32).contains(&before.len()), "{}", before.len());
    }

    #[test]
    fn an_entry_takes_few_bytes() {
        let page = encode(&row(0..100));
        assert!(page.len() < 100 * 38, "{}", page.len());
    }

    #[test]
    fn the_format_stays_what_it_is() {
        let mut entries = row(3..5);
        entries.push(Entry::Zeros(1 << 40));
        let place = Place { pack: Uuid::from_u128(9), offset: 0, stored: 100, length: 100 };
        entries.push(Entry::Chunk { id: ChunkId::of(b"x"), place });
        let page = encode(&entries);
        assert_eq!(
            ChunkId::of(&page).to_string(),
            "9fe5efd01f0f95686f6af73f18553c7cf6e255929c825cc87ea06720e028ca14"
        );
    }

    #[test]
    fn a_page_that_is_damaged_anywhere_is_refused() {
        let page = encode(&row(0..3));
        let id = ChunkId::of(&page);
        for at in 0..page.len() {
            let mut damaged = page.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&id, &damaged, &mut Vec::new()).is_err(), "byte {at}");
            assert!(decode(&id, &page[..at], &mut Vec::new()).is_err(), "cut at {at}");
        }
    }
}
