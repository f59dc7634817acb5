//! [`Usage`]: what the repositories of a quota hold: as it was counted, and what this process has brought since.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{Quota, QuotaExceeded, QuotaStats};
use crate::oci::{Digest, RepositoryName, Tag};

/// What stands for content or a tag: half of a hash, since there may be millions.
type Id = u128;

/// Something that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// Content of that many bytes.
    Content(Id, u64),
    /// A tag.
    Tag(Id),
}

impl Item {
    /// A blob or a manifest.
    pub(super) fn content(digest: &Digest, size: u64) -> Self {
        Self::Content(Self::id_of(digest), size)
    }

    /// A tag of a repository.
    pub(super) fn tag(name: &RepositoryName, tag: &Tag) -> Self {
        Self::Tag(Self::id_of_tag(name, tag))
    }

    pub(super) fn id_of_tag(name: &RepositoryName, tag: &Tag) -> Id {
        let hash = blake3::hash(format!("{name}:{tag}").as_bytes());
        hash.as_bytes().first_chunk().copied().map_or(0, u128::from_le_bytes)
    }

    pub(super) fn id_of(digest: &Digest) -> Id {
        // A digest has at least 64 of these digits.
        digest.hex().get(..32).and_then(|hex| Id::from_str_radix(hex, 16).ok()).unwrap_or_default()
    }
}

/// What was found when it was last counted.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) contents: HashMap<Id, u64>,
    pub(super) tags: HashSet<Id>,
}

/// Something that this process has brought.
#[derive(Debug)]
struct Brought {
    item: Item,
    /// How many are about to store it.
    holders: u32,
    /// When it was stored.
    stored: Option<Instant>,
}

/// What the repositories of a quota hold.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// When counting began the last time, and how long it took.
    counted: Option<(Instant, Duration)>,
    found: Found,
    /// Sizes of blobs that were read by counts that failed.
    learnt: HashMap<Id, u64>,
    /// Bytes of what was found.
    bytes: u64,
    brought: Vec<Brought>,
    freed: Option<Instant>,
}

impl Usage {
    /// When the last count began.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.counted.map(|(begun, _)| begun)
    }

    pub(super) fn took(&self) -> Duration {
        self.counted.map_or(Duration::ZERO, |(_, took)| took)
    }

    /// Something was deleted.
    pub(super) fn freed(&mut self, now: Instant) {
        self.freed = Some(now);
    }

    pub(super) fn last_freed(&self) -> Option<Instant> {
        self.freed
    }

    /// The size of content that was found before.
    pub(super) fn size_of(&self, id: Id) -> Option<u64> {
        self.found.contents.get(&id).or_else(|| self.learnt.get(&id)).copied()
    }

    /// The size of a blob was read.
    pub(super) fn learn(&mut self, id: Id, size: u64) {
        self.learnt.insert(id, size);
    }

    /// From now on it is this that was found, by a count that began then.
    pub(super) fn count(&mut self, found: Found, begun: Instant) {
        self.bytes = found.contents.values().fold(0, |sum, size| sum.saturating_add(*size));
        self.found = found;
        self.learnt = HashMap::new();
        self.counted = Some((begun, begun.elapsed()));
        // What was stored before it began has been found, or was deleted.
        self.brought.retain(|brought| brought.holders > 0 || brought.stored.is_some_and(|at| at >= begun));
    }

    fn has(&self, item: &Item) -> bool {
        match item {
            Item::Content(id, _) => self.found.contents.contains_key(id),
            Item::Tag(id) => self.found.tags.contains(id),
        }
    }

    /// Bytes and tags.
    fn used(&self) -> (u64, u64) {
        let new = self.brought.iter().filter(|brought| !self.has(&brought.item));
        new.fold((self.bytes, self.found.tags.len() as u64), |(bytes, tags), brought| match brought.item {
            Item::Content(_, size) => (bytes.saturating_add(size), tags),
            Item::Tag(_) => (bytes, tags + 1),
        })
    }

    /// Bytes for which there is room.
    pub(super) fn room(&self, quota: &Quota) -> u64 {
        quota.bytes.map_or(u64::MAX, |limit| limit.saturating_sub(self.used().0))
    }

    /// Whether so many more bytes and tags are allowed.
    pub(super) fn judge(
        &self,
        quota: &Quota,
        more_bytes: u64,
        more_tags: u64,
    ) -> std::result::Result<(), QuotaExceeded> {
        let (bytes, tags) = self.used();
        for (unit, limit, used, wanted) in
            [("bytes", quota.bytes, bytes, more_bytes), ("tags", quota.tags, tags, more_tags)]
        {
            if let Some(limit) = limit
                && wanted > 0
                && used.saturating_add(wanted) > limit
            {
                return Err(QuotaExceeded { quota: quota.name.clone(), unit, limit, used, wanted });
            }
        }
        Ok(())
    }

    /// Counts what is about to be stored, if all of it is allowed.
    pub(super) fn reserve(
        &mut self,
        quota: &Quota,
        items: &[Item],
    ) -> std::result::Result<(), QuotaExceeded> {
        let (mut bytes, mut tags, mut seen) = (0_u64, 0, HashSet::new());
        for item in items {
            let is_known = self.has(item) || self.brought.iter().any(|brought| is_same(&brought.item, item));
            match item {
                Item::Content(_, size) if !is_known => bytes = bytes.saturating_add(*size),
                Item::Tag(id) if !is_known && seen.insert(*id) => tags += 1,
                _ => {}
            }
        }
        self.judge(quota, bytes, tags)?;
        for item in items {
            match self.brought.iter_mut().find(|brought| is_same(&brought.item, item)) {
                Some(brought) => brought.holders += 1,
                None => self.brought.push(Brought { item: *item, holders: 1, stored: None }),
            }
        }
        Ok(())
    }

    /// What was reserved has been stored, at that time, or not.
    pub(super) fn settle(&mut self, items: &[Item], stored: Option<Instant>) {
        for item in items {
            if let Some(brought) = self.brought.iter_mut().find(|brought| is_same(&brought.item, item)) {
                brought.holders = brought.holders.saturating_sub(1);
                brought.stored = stored.or(brought.stored);
            }
        }
        self.brought.retain(|brought| brought.holders > 0 || brought.stored.is_some());
    }

    pub(super) fn stats(&self, quota: &Quota) -> QuotaStats {
        let (used_bytes, used_tags) = self.used();
        QuotaStats {
            name: quota.name.clone(),
            used_bytes,
            limit_bytes: quota.bytes,
            used_tags,
            limit_tags: quota.tags,
        }
    }
}

fn is_same(one: &Item, other: &Item) -> bool {
    match (one, other) {
        (Item::Content(one, _), Item::Content(other, _)) | (Item::Tag(one), Item::Tag(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Repositories;

    fn quota(bytes: u64, tags: u64) -> Quota {
        Quota {
            name: "team".to_owned(),
            folders: Vec::new(),
            repositories: Repositories::that(|_| true),
            bytes: Some(bytes),
            tags: Some(tags),
        }
    }

    fn content(id: Id, size: u64) -> Item {
        Item::Content(id, size)
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_let_go() {
        let (mut usage, quota) = (Usage::default(), quota(100, 1));
        usage.reserve(&quota, &[content(1, 60), Item::Tag(7)]).unwrap();
        assert_eq!(usage.reserve(&quota, &[content(2, 50)]).unwrap_err().used, 60);
        assert_eq!(usage.reserve(&quota, &[content(2, 1), Item::Tag(8)]).unwrap_err().unit, "tags");
        // Somebody tries the same once more while the first try goes on.
        usage.reserve(&quota, &[content(1, 60), Item::Tag(7)]).unwrap();
        usage.settle(&[content(1, 60), Item::Tag(7)], None);
        assert_eq!(usage.used(), (60, 1));
        usage.settle(&[content(1, 60), Item::Tag(7)], None);
        assert_eq!(usage.used(), (0, 0));
        usage.reserve(&quota, &[content(2, 100)]).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_takes_the_place_of_what_was_stored_before_it_began() {
        let (mut usage, quota) = (Usage::default(), quota(100, 9));
        usage.reserve(&quota, &[content(1, 10)]).unwrap();
        usage.settle(&[content(1, 10)], Some(Instant::now()));
        usage.reserve(&quota, &[content(2, 20)]).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let begun = Instant::now();
        usage.reserve(&quota, &[content(3, 30)]).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        usage.settle(&[content(3, 30)], Some(Instant::now()));
        // The first was deleted, the second is on its way, and the third came when the listing had passed it, or not.
        for found in [HashMap::new(), HashMap::from([(3, 30)])] {
            usage.count(Found { contents: found, tags: HashSet::new() }, begun);
            assert_eq!(usage.used(), (50, 0));
        }
        assert_eq!((usage.took(), usage.room(&quota)), (Duration::from_secs(1), 50));
    }

    #[test]
    fn a_tag_that_is_named_twice_is_one() {
        let (mut usage, quota) = (Usage::default(), quota(0, 1));
        usage.reserve(&quota, &[Item::Tag(1), Item::Tag(1)]).unwrap();
        assert_eq!(usage.used(), (0, 1));
        usage.settle(&[Item::Tag(1), Item::Tag(1)], Some(Instant::now()));
        assert_eq!(usage.used(), (0, 1));
    }
}
