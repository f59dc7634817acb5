//! [`Seen`]: which bytes of packs were read and found right.
//!
//! Chunks lie in a pack as they came, and who reads the blob that brought them reads them in that order: what was seen of a pack
//! is a few stretches of it, however many chunks there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::registry::recipe::Place;

/// Stretches of packs, by where they begin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct Seen(BTreeMap<Uuid, BTreeMap<u64, u64>>);

/// The same as it is stored: keys in JSON are no numbers.
type Written = BTreeMap<Uuid, Vec<(u64, u64)>>;

impl From<Written> for Seen {
    fn from(written: Written) -> Self {
        Self(written.into_iter().map(|(pack, stretches)| (pack, stretches.into_iter().collect())).collect())
    }
}

impl From<Seen> for Written {
    fn from(seen: Seen) -> Self {
        seen.0.into_iter().map(|(pack, stretches)| (pack, stretches.into_iter().collect())).collect()
    }
}

impl Seen {
    /// Whether all of a place was seen.
    pub(super) fn has(&self, place: &Place) -> bool {
        let before =
            self.0.get(&place.pack).and_then(|pack| pack.range(..=u64::from(place.offset)).next_back());
        before.is_some_and(|(_, end)| *end >= place.end())
    }

    /// Adds a place.
    pub(super) fn add(&mut self, place: &Place) {
        let pack = self.0.entry(place.pack).or_default();
        let (mut start, mut end) = (u64::from(place.offset), place.end());
        if let Some((&before, &its_end)) = pack.range(..=start).next_back()
            && its_end >= start
        {
            (start, end) = (before, end.max(its_end));
        }
        while let Some((&next, &its_end)) = pack.range(start..=end).next() {
            end = end.max(its_end);
            pack.remove(&next);
        }
        pack.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(offset: u32, stored: u32) -> Place {
        Place { pack: Uuid::nil(), offset, stored, length: stored }
    }

    #[test]
    fn what_lies_side_by_side_is_one_stretch() {
        let mut seen = Seen::default();
        for offset in [0, 20, 10, 30] {
            seen.add(&place(offset, 10));
        }
        assert_eq!(seen.0[&Uuid::nil()], BTreeMap::from([(0, 40)]));
        assert!(!seen.has(&Place { pack: Uuid::max(), ..place(0, 10) }));
    }

    proptest! {
        #[test]
        fn a_place_is_seen_when_all_of_its_bytes_are(
            places in proptest::collection::vec((0_u32..60, 1_u32..12), 0..20),
            asked in (0_u32..60, 1_u32..12),
        ) {
            let mut seen = Seen::default();
            let mut bytes = [false; 80];
            for (offset, stored) in places {
                seen.add(&place(offset, stored));
                bytes[offset as usize..(offset + stored) as usize].fill(true);
            }
            let (offset, stored) = asked;
            let all = bytes[offset as usize..(offset + stored) as usize].iter().all(|seen| *seen);
            prop_assert_eq!(seen.has(&place(offset, stored)), all);
        }
    }
}
