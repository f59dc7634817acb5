//! What a registry holds: how much clients see, how much of it is different, how much is stored, and what of that would go
//! with each repository.
//!
//! It reads every recipe, and needs about 30 bytes of memory for each chunk: 300 MB for a TB of different data. So it is for
//! people who ask, one at a time, and not for a graph.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use storage_backends::Key;
use uuid::Uuid;

use super::blocking::blocking;
use super::recipe::{Entry, Place};
use super::record::Extent;
use super::{QuotaStats, Registry, Result, layout};
use crate::oci::{Digest, RepositoryName};

/// What a registry holds, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Blobs, each once.
    pub blobs: u64,
    /// What clients see: the blobs of each repository.
    pub logical_bytes: u64,
    /// What is different of it: each chunk once, and no zeros that are left out.
    pub different_bytes: u64,
    /// What is stored of the blobs, their recipes included.
    pub stored_bytes: u64,
    /// What is stored and belongs to no blob of a repository: uploads that are not finished, and what was deleted.
    pub unreferenced_bytes: u64,
    /// Logical bytes for each different one.
    pub dedup_ratio: f64,
    /// Different bytes for each stored one.
    pub compression_ratio: f64,
    /// Each repository, in byte order.
    pub repositories: Vec<RepositoryStats>,
    /// What groups of repositories may hold.
    #[serde(default)]
    pub quotas: Vec<QuotaStats>,
}

/// What a repository holds, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryStats {
    /// Its name.
    pub name: String,
    /// Its blobs.
    pub blobs: u64,
    /// Their bytes.
    pub logical_bytes: u64,
    /// What is stored for it and for no other repository: what deleting it would free.
    pub exclusive_bytes: u64,
}

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// That of the repository with this number.
    One(u32),
    Several,
}

impl Owner {
    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Several }
    }
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Count {
    repositories: Vec<RepositoryStats>,
    packs: HashMap<Uuid, u32>,
    /// By pack and place in it.
    chunks: HashMap<(u32, u32), Owner>,
    different: u64,
    stored: u64,
    /// Bytes that are no garbage, below `data/` and `recipes/`.
    referenced: u64,
}

impl Registry {
    /// Counts what there is.
    pub async fn stats(&self) -> Result<Stats> {
        let mut count = Count::default();
        let blobs = self.count_repositories(&mut count).await?;
        let number = blobs.len() as u64;
        for (digest, owner) in blobs {
            let Some(record) = self.find_blob(&digest).await? else { continue };
            for extent in record.extents {
                self.count_extent(&mut count, &extent, owner).await?;
            }
        }
        let kept =
            self.bytes_below(&layout::data_objects()).await? + self.bytes_below(&layout::recipes()).await?;
        count.repositories.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let logical_bytes = count.repositories.iter().map(|repository| repository.logical_bytes).sum();
        Ok(Stats {
            blobs: number,
            logical_bytes,
            different_bytes: count.different,
            stored_bytes: count.stored,
            unreferenced_bytes: kept.saturating_sub(count.referenced),
            dedup_ratio: ratio(logical_bytes, count.different),
            compression_ratio: ratio(count.different, count.stored),
            repositories: count.repositories,
            quotas: self.quotas.count_all().await?,
        })
    }

    /// Counts the blobs of all repositories, those that are on no list because nothing was tagged in them too; gives each blob
    /// once, and whose it is.
    async fn count_repositories(&self, count: &mut Count) -> Result<HashMap<Digest, Owner>> {
        let mut blobs: HashMap<Digest, Owner> = HashMap::new();
        let mut numbers: HashMap<RepositoryName, u32> = HashMap::new();
        let mut keys = self.store.list(&layout::repositories(), None);
        while let Some(entry) = keys.try_next().await? {
            let Some((name, digest)) = layout::member(&entry.key) else { continue };
            let Some(member) = self.find_member(&name, &digest).await? else { continue };
            let number = *numbers.entry(name).or_insert_with_key(|name| count.begin(name));
            if let Some(repository) = count.repositories.get_mut(number as usize) {
                repository.blobs += 1;
                repository.logical_bytes += member.size;
            }
            let owner = Owner::One(number);
            blobs.entry(digest).and_modify(|owners| *owners = owners.and(owner)).or_insert(owner);
        }
        Ok(blobs)
    }

    async fn count_extent(&self, count: &mut Count, extent: &Extent, owner: Owner) -> Result<()> {
        match extent {
            Extent::Zero { .. } => {}
            Extent::Inline(bytes) => count.add(bytes.len() as u64, bytes.len() as u64, owner),
            Extent::Data { length, .. } => {
                // Of the blob alone, and of no other.
                count.add(*length, *length, owner);
                count.referenced += length;
            }
            Extent::Chunks { recipe, .. } => {
                // Not by way of the memory for recipes, which would be full of these then.
                let recipes = &self.source.recipes;
                let (paged, size) = recipes.paged(*recipe).await?;
                let entries = recipes.read(*recipe, &paged.pages).await?;
                count.referenced += size;
                count.add(0, size, owner);
                let mut counting = std::mem::take(count);
                *count = blocking(move || {
                    for page in &paged.pages {
                        counting.stored_once(&page.place, 0, owner);
                    }
                    for entry in entries.entries() {
                        if let Entry::Chunk { place, .. } = entry {
                            counting.stored_once(place, place.length.into(), owner);
                        }
                    }
                    counting
                })
                .await;
            }
        }
        Ok(())
    }

    async fn bytes_below(&self, folder: &Key) -> Result<u64> {
        let sizes = self.store.list(folder, None).map_ok(|entry| entry.size);
        Ok(sizes.try_fold(0, async |sum, size| Ok(sum + size)).await?)
    }
}

impl Count {
    /// Begins a repository, and gives its number.
    fn begin(&mut self, name: &RepositoryName) -> u32 {
        let name = name.to_string();
        self.repositories.push(RepositoryStats { name, blobs: 0, logical_bytes: 0, exclusive_bytes: 0 });
        u32::try_from(self.repositories.len() - 1).unwrap_or(u32::MAX)
    }

    /// Counts something that is stored once, and that nobody else refers to.
    fn add(&mut self, different: u64, stored: u64, owner: Owner) {
        self.different += different;
        self.stored += stored;
        self.change(owner, |bytes| bytes + stored);
    }

    fn change(&mut self, owner: Owner, change: impl FnOnce(u64) -> u64) {
        if let Owner::One(number) = owner
            && let Some(repository) = self.repositories.get_mut(number as usize)
        {
            repository.exclusive_bytes = change(repository.exclusive_bytes);
        }
    }

    /// Counts what others may refer to as well, and is `different` bytes of blobs.
    fn stored_once(&mut self, place: &Place, different: u64, owner: Owner) {
        let next = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        let pack = *self.packs.entry(place.pack).or_insert(next);
        let stored = u64::from(place.stored);
        match self.chunks.entry((pack, place.offset)) {
            Slot::Vacant(slot) => {
                slot.insert(owner);
                self.referenced += stored;
                self.add(different, stored, owner);
            }
            Slot::Occupied(mut slot) => {
                let before = *slot.get();
                let owners = before.and(owner);
                slot.insert(owners);
                if owners != before {
                    self.change(before, |bytes| bytes - stored);
                }
            }
        }
    }
}

/// How many of the first come to one of the second; 1 where there is nothing.
fn ratio(of: u64, to: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people to look at")]
    let ratio = of as f64 / to as f64;
    if to == 0 { 1.0 } else { ratio }
}
