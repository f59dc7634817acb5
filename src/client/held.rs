//! [`Held`]: what a registry of DVCR has already of a blob that is to be uploaded.
//!
//! It is asked for nothing but what we may read: which chunks the blobs of this repository are made of, and those of others
//! with names like it. So an upload never learns by asking what somebody else's repository holds. What asking may cost is
//! bounded by what it can save.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::{ClientError, Repository};
use crate::chunk::{ChunkId, Listed};
use crate::oci::{Blob, Digest, Manifest, Reference, RepositoryName, Tag};

/// Tags of a repository that are looked at. The newest of its disks has most in common with the next one.
const TAGS: usize = 16;

/// Other repositories that are looked at, those with the most similar names first, and tags of each.
const OTHERS: usize = 32;
const TAGS_OF_OTHERS: usize = 2;

/// Blobs that are too small to be worth a question.
pub(super) const SMALL: u64 = 1 << 20;

/// A listing takes a byte for some 1500 bytes of a disk. For each it may cost a byte for so many of the blob that is uploaded.
const WORTH: u64 = 64;
const ENTRY: u64 = 41;

/// Entries that are listed at most: those of some 30 GB, which take 60 MiB of memory.
const MOST: u64 = 1 << 19;

/// Entries that are listed in any case.
const LEAST: u64 = 16 << 10;

/// Chunks that a registry has, and where.
#[derive(Debug, Default)]
pub struct Held {
    /// Blobs that can be copied from, `<repository>@<digest>`.
    sources: Vec<String>,
    /// By half of their ids. Should two agree in it, the digest of the upload comes out wrong, and it is done again without.
    places: HashMap<[u8; 16], (Place, u64)>,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Its number.
    pub(super) source: u16,
    /// Bytes before it.
    pub(super) offset: u64,
}

impl Held {
    /// What the registry of `repository` has of a blob of `size` bytes that will be called `tag`, as far as it can be found
    /// out at little cost.
    ///
    /// Only saves work: where the registry does not answer, it has nothing.
    pub async fn gather(repository: &Repository, tag: Option<&Tag>, size: u64) -> Self {
        let mut gathering = Gathering {
            held: Self::default(),
            seen: HashSet::new(),
            left: (size / WORTH / ENTRY).clamp(LEAST, MOST),
        };
        if let Err(error) = gathering.all(repository, tag).await {
            tracing::debug!(%error, "cannot ask what the registry has");
        }
        let Self { sources, places } = &gathering.held;
        tracing::debug!(blobs = sources.len(), chunks = places.len(), "the registry has");
        gathering.held
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where a chunk of `length` bytes is.
    pub(super) fn find(&self, id: &ChunkId, length: u64) -> Option<Place> {
        let (place, found) = self.places.get(&id.half())?;
        (*found == length).then_some(*place)
    }

    /// The repositories that sources are in, each once.
    pub(super) fn repositories(&self) -> Vec<&str> {
        let mut names: Vec<_> =
            self.sources.iter().filter_map(|source| Some(source.split_once('@')?.0)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The name of a source.
    pub(super) fn source(&self, number: u16) -> &str {
        self.sources.get(usize::from(number)).map_or("", String::as_str)
    }
}

#[cfg(test)]
impl Held {
    /// Nothing, out of these sources.
    pub(super) fn of_sources(names: &[&str]) -> Self {
        Self { sources: names.iter().map(|&name| name.to_owned()).collect(), ..Self::default() }
    }
}

struct Gathering {
    held: Held,
    seen: HashSet<Digest>,
    /// Entries that may still be listed.
    left: u64,
}

impl Gathering {
    async fn all(&mut self, repository: &Repository, tag: Option<&Tag>) -> Result<(), ClientError> {
        // A repository that nothing was pushed to yet has no list of tags.
        let tags = repository.tags().await.unwrap_or_default();
        let others = tags.iter().rev().filter(|other| Some(*other) != tag).take(TAGS);
        for tag in tags.iter().filter(|other| Some(*other) == tag).chain(others) {
            self.image(repository, tag).await;
        }
        let (registry, client) = (repository.registry(), &repository.client);
        let mut names = client.repositories(registry).await?;
        names.retain(|name| name != repository.name());
        names.sort_by_key(|name| Reverse(likeness(name, repository.name())));
        for name in names.iter().take(OTHERS) {
            let other = client.repository(registry, name);
            let tags = other.tags().await.unwrap_or_default();
            for tag in tags.iter().rev().take(TAGS_OF_OTHERS) {
                self.image(&other, tag).await;
            }
        }
        Ok(())
    }

    async fn image(&mut self, repository: &Repository, tag: &Tag) {
        if self.left == 0 {
            return;
        }
        if let Err(error) = self.layers(repository, tag).await {
            tracing::debug!(name = %repository.name(), %tag, %error, "cannot ask what an image is made of");
        }
    }

    async fn layers(&mut self, repository: &Repository, tag: &Tag) -> Result<(), ClientError> {
        let manifest = repository.manifest(&Reference::Tag(tag.clone())).await?;
        let Ok(manifest) = Manifest::parse(&manifest.bytes, Some(manifest.media_type)) else { return Ok(()) };
        for blob in manifest.blobs {
            if blob.size >= SMALL && self.seen.insert(blob.digest.clone()) {
                self.blob(repository, &blob).await?;
            }
        }
        Ok(())
    }

    async fn blob(&mut self, repository: &Repository, blob: &Blob) -> Result<(), ClientError> {
        let Some(mut listing) = repository.listing(&blob.digest, blob.size).await? else { return Ok(()) };
        let Held { sources, places } = &mut self.held;
        let Ok(source) = u16::try_from(sources.len()) else { return Ok(()) };
        sources.push(format!("{}@{}", repository.name(), blob.digest));
        let mut offset = 0;
        while self.left > 0
            && let Some(entry) = listing.next().await?
        {
            self.left -= 1;
            if let Listed::Chunk { id, length } = entry {
                places.entry(id.half()).or_insert((Place { source, offset }, length));
            }
            offset += entry.length();
        }
        Ok(())
    }
}

/// How many characters two names have in common at their beginning.
fn likeness(one: &RepositoryName, other: &RepositoryName) -> usize {
    one.as_str().bytes().zip(other.as_str().bytes()).take_while(|(a, b)| a == b).count()
}
