//! [`Places`]: where chunks are, in little memory.
//!
//! Of an id half is kept, and of a pack a number. A slot of the table takes 33 bytes, and between 7/16 and 7/8 of them are used.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use uuid::Uuid;

use super::recipe::Place;
use crate::chunk::ChunkId;

/// Bytes that an entry takes in a table that has just grown, which is as empty as it gets.
pub(super) const ENTRY: u64 = 76;

/// Half of a chunk's id.
type Key = [u8; 16];

/// Ids are hashes already. Behind the length of a key its bytes are written, which is what stays.
#[derive(Debug, Default)]
struct First(u64);

impl Hasher for First {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    pack: u32,
    offset: u32,
    stored: u32,
    length: u32,
}

/// Where chunks are.
#[derive(Debug, Default)]
pub(super) struct Places {
    table: HashMap<Key, Slot, BuildHasherDefault<First>>,
    packs: Vec<Uuid>,
    numbers: HashMap<Uuid, u32>,
}

impl Places {
    /// How many chunks are known.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether a chunk is known.
    pub(super) fn has(&self, id: &ChunkId) -> bool {
        self.table.contains_key(&id.half())
    }

    /// Where a chunk is.
    pub(super) fn find(&self, id: &ChunkId) -> Option<Place> {
        let slot = self.table.get(&id.half())?;
        let pack = *self.packs.get(usize::try_from(slot.pack).ok()?)?;
        Some(Place { pack, offset: slot.offset, stored: slot.stored, length: slot.length })
    }

    /// Says where a chunk is, in place of what was said before.
    pub(super) fn insert(&mut self, id: &ChunkId, place: &Place) {
        let Ok(next) = u32::try_from(self.packs.len()) else { return };
        let number = *self.numbers.entry(place.pack).or_insert(next);
        if number == next {
            self.packs.push(place.pack);
        }
        let slot = Slot { pack: number, offset: place.offset, stored: place.stored, length: place.length };
        self.table.insert(id.half(), slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_where_it_was_said_last() {
        let mut places = Places::default();
        let id = |number: u32| ChunkId::of(&number.to_le_bytes());
        let place = |number: u32| Place {
            pack: Uuid::from_u128((number % 7).into()),
            offset: number,
            stored: 1,
            length: 2,
        };
        for number in 0..1000 {
            places.insert(&id(number), &place(number));
        }
        places.insert(&id(3), &place(5));
        assert_eq!(places.len(), 1000);
        assert_eq!((places.find(&id(3)), places.find(&id(999))), (Some(place(5)), Some(place(999))));
        assert!(places.has(&id(0)) && !places.has(&id(1000)));
        assert_eq!(places.find(&id(1000)), None);
    }
}
