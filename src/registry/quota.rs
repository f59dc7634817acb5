//! [`Quotas`]: how much groups of repositories may hold.
//!
//! A quota counts the bytes of blobs and manifests, each once however many of its repositories have it, and tags. Nobody keeps the
//! sum: it is what is stored below the repositories, listed when it is needed and kept in memory for a while, with what this process
//! brings added to it. What other replicas bring or delete meanwhile is seen at the next count, half a minute later (or twenty times what
//! counting takes), as is what was being written when this one counted: a quota may be overrun by that. The sizes of blobs never
//! change, and are read once.
//!
//! A blob counts from when it belongs to a repository until it does not: that of an image that was deleted until a collection takes
//! it away, as that of an image to come.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use storage_backends::{Key, Store};
use tokio::sync::{Mutex, MutexGuard};

use super::record::{self, Membership};
use super::{Body, BodyError, Error, LOOKUPS, Repositories, Result, layout};
use crate::oci::{Digest, RepositoryName};

/// How old a count may be: so long at least, and so many times what it took, that counting a million objects is no load of its own.
#[derive(Debug, Clone, Copy)]
struct Freshness {
    least: Duration,
    times: u32,
}

/// What a count may let in.
const TO_ALLOW: Freshness = Freshness { least: Duration::from_secs(30), times: 20 };

/// What it may refuse.
const TO_REFUSE: Freshness = Freshness { least: Duration::from_secs(2), times: 2 };

/// What it may tell those who only ask.
const TO_TELL: Freshness = Freshness { least: Duration::ZERO, times: 0 };

/// A limit of what some repositories hold together.
#[derive(Debug, Clone)]
pub struct Quota {
    /// What it is called: for its operator, and for those whom it stops.
    pub name: String,
    /// The folder of names that all of them are in; empty: anywhere. What is listed to count.
    pub folder: String,
    /// Which repositories.
    pub repositories: Repositories,
    /// Bytes of their blobs and manifests, each once.
    pub bytes: Option<u64>,
    /// Tags.
    pub tags: Option<u64>,
}

/// What a quota allows, and what there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaStats {
    /// Which quota.
    pub name: String,
    /// Bytes that its repositories have.
    pub used_bytes: u64,
    /// Bytes that they may have; none: any number.
    pub limit_bytes: Option<u64>,
    /// Tags that its repositories have.
    pub used_tags: u64,
    /// Tags that they may have; none: any number.
    pub limit_tags: Option<u64>,
}

/// Something would be more than a quota allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the quota of {quota} allows {limit} {unit}, of which {used} are used, and this takes {wanted} more")]
pub struct QuotaExceeded {
    /// Which.
    pub quota: String,
    /// Of what: `bytes` or `tags`.
    pub unit: &'static str,
    /// How many it allows.
    pub limit: u64,
    /// How many there are.
    pub used: u64,
    /// How many more are wanted, at least.
    pub wanted: u64,
}

impl QuotaExceeded {
    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// What is to be stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// So many bytes at least, of which nobody knows yet what they are.
    Bytes(u64),
    /// Content of that many bytes.
    Content(&'a Digest, u64),
    /// Tags that are not there.
    Tags(u64),
}

/// All quotas of a registry.
#[derive(Debug)]
pub struct Quotas {
    store: Arc<dyn Store>,
    all: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    quota: Quota,
    usage: Mutex<Usage>,
    /// What was counted last, for those who only look.
    known: RwLock<Option<QuotaStats>>,
}

/// What the repositories of a quota hold.
#[derive(Debug, Default)]
struct Usage {
    /// When counting began, and how long it took. None: it has to be counted.
    counted: Option<(Instant, Duration)>,
    contents: HashMap<Digest, u64>,
    bytes: u64,
    tags: u64,
}

impl Quotas {
    pub(super) fn new(store: &Arc<dyn Store>, quotas: Vec<Quota>) -> Self {
        let kept = |quota| Kept { quota, usage: Mutex::default(), known: RwLock::default() };
        Self { store: Arc::clone(store), all: quotas.into_iter().map(kept).collect() }
    }

    fn of(&self, name: &RepositoryName) -> impl Iterator<Item = &Kept> {
        self.all.iter().filter(move |kept| kept.quota.repositories.has(name))
    }

    /// Refuses what a repository may not have any more.
    pub(super) async fn check(&self, name: &RepositoryName, wanted: Wanted<'_>) -> Result<()> {
        for kept in self.of(name) {
            drop(self.allowing(kept, wanted).await?);
        }
        Ok(())
    }

    /// The same, and counts it as there: of several that come at once no more get in than there is room for.
    pub(super) async fn take(&self, name: &RepositoryName, wanted: Wanted<'_>) -> Result<()> {
        for kept in self.of(name) {
            let mut usage = self.allowing(kept, wanted).await?;
            usage.add(wanted);
            kept.tell(&usage);
        }
        Ok(())
    }

    /// Whether content costs nothing where it is to go: all quotas of the repository have it, as far as anybody knows.
    pub(super) async fn have(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        for kept in self.of(name) {
            if !self.fresh(kept, TO_ALLOW).await?.contents.contains_key(digest) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether anybody wants to know how many tags a repository has.
    pub(super) fn counts_tags(&self, name: &RepositoryName) -> bool {
        self.of(name).any(|kept| kept.quota.tags.is_some())
    }

    /// Something of a repository was deleted.
    pub(super) fn freed(&self, name: &RepositoryName) {
        for kept in self.of(name) {
            // Whoever holds it is counting or has counted just now; what is refused is counted anew in a moment anyhow.
            if let Ok(mut usage) = kept.usage.try_lock() {
                usage.counted = None;
            }
        }
    }

    /// The quota of a repository with the least room for more bytes; `None`: there may be any number.
    pub(super) async fn tightest(&self, name: &RepositoryName) -> Result<Option<QuotaExceeded>> {
        let mut least: Option<QuotaExceeded> = None;
        for kept in self.of(name) {
            let Some(limit) = kept.quota.bytes else { continue };
            let usage = self.fresh(kept, TO_ALLOW).await?;
            let found = kept.exceeded(limit, usage.bytes);
            if least.as_ref().is_none_or(|least| found.room() < least.room()) {
                least = Some(found);
            }
        }
        Ok(least)
    }

    /// What each quota allows, and what there is: counted now.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn count_all(&self) -> Result<Vec<QuotaStats>> {
        let mut all = Vec::new();
        for kept in &self.all {
            let usage = self.fresh(kept, TO_TELL).await?;
            all.push(kept.stats(&usage));
        }
        Ok(all)
    }

    /// The same as it was when it was counted last, without what was never counted.
    #[must_use]
    pub fn known(&self) -> Vec<QuotaStats> {
        let known = |kept: &Kept| kept.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.all.iter().filter_map(known).collect()
    }

    async fn allowing<'a>(&self, kept: &'a Kept, wanted: Wanted<'_>) -> Result<MutexGuard<'a, Usage>> {
        let usage = self.fresh(kept, TO_ALLOW).await?;
        if kept.judge(&usage, wanted).is_ok() {
            return Ok(usage);
        }
        drop(usage);
        let usage = self.fresh(kept, TO_REFUSE).await?;
        kept.judge(&usage, wanted)?;
        Ok(usage)
    }

    /// The usage, counted anew if that is due.
    async fn fresh<'a>(&self, kept: &'a Kept, freshness: Freshness) -> Result<MutexGuard<'a, Usage>> {
        let mut usage = kept.usage.lock().await;
        if usage.counted.is_none_or(|(begun, took)| !freshness.has(begun.elapsed(), took)) {
            let begun = Instant::now();
            let counted = self.count(&kept.quota, &usage.contents).await?;
            *usage = Usage { counted: Some((begun, begun.elapsed())), ..counted };
            kept.tell(&usage);
        }
        Ok(usage)
    }

    /// Counts. `sizes` are known already.
    async fn count(&self, quota: &Quota, sizes: &HashMap<Digest, u64>) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut unknown: HashMap<Digest, Key> = HashMap::new();
        let mut entries = self.store.list(&layout::repositories_in(&quota.folder), None);
        while let Some(entry) = entries.try_next().await? {
            if record::is_tombstone(entry.size) {
                continue;
            }
            if let Some((name, digest)) = layout::member(&entry.key) {
                if !quota.repositories.has(&name) || usage.contents.contains_key(&digest) {
                    continue;
                }
                match sizes.get(&digest) {
                    Some(size) => usage.add(Wanted::Content(&digest, *size)),
                    None => drop(unknown.insert(digest, entry.key)),
                }
            } else if let Some((name, digest)) = layout::manifest_of(&entry.key) {
                if quota.repositories.has(&name) {
                    usage.add(Wanted::Content(&digest, entry.size));
                }
            } else if layout::repository_of_tag(&entry.key).is_some_and(|name| quota.repositories.has(&name))
            {
                usage.add(Wanted::Tags(1));
            }
        }
        let store = self.store.as_ref();
        let read = |(digest, key): (Digest, Key)| async move {
            let found = record::find::<Membership>(store, &key).await?;
            Ok::<_, Error>((digest, found))
        };
        let mut found = stream::iter(unknown).map(read).buffer_unordered(LOOKUPS);
        while let Some((digest, member)) = found.try_next().await? {
            if let Some((member, _)) = member {
                usage.add(Wanted::Content(&digest, member.size));
            }
        }
        Ok(usage)
    }
}

impl Freshness {
    fn has(self, age: Duration, took: Duration) -> bool {
        age < self.least.max(took.saturating_mul(self.times))
    }
}

impl Kept {
    fn judge(&self, usage: &Usage, wanted: Wanted<'_>) -> Result<(), QuotaExceeded> {
        let (unit, limit, used, more) = match wanted {
            // What is there in one of the repositories costs nothing in another.
            Wanted::Content(digest, _) if usage.contents.contains_key(digest) => return Ok(()),
            Wanted::Bytes(more) | Wanted::Content(_, more) => ("bytes", self.quota.bytes, usage.bytes, more),
            Wanted::Tags(more) => ("tags", self.quota.tags, usage.tags, more),
        };
        match limit {
            Some(limit) if more > 0 && used.saturating_add(more) > limit => {
                Err(QuotaExceeded { quota: self.quota.name.clone(), unit, limit, used, wanted: more })
            }
            _ => Ok(()),
        }
    }

    fn exceeded(&self, limit: u64, used: u64) -> QuotaExceeded {
        QuotaExceeded { quota: self.quota.name.clone(), unit: "bytes", limit, used, wanted: 1 }
    }

    fn stats(&self, usage: &Usage) -> QuotaStats {
        QuotaStats {
            name: self.quota.name.clone(),
            used_bytes: usage.bytes,
            limit_bytes: self.quota.bytes,
            used_tags: usage.tags,
            limit_tags: self.quota.tags,
        }
    }

    fn tell(&self, usage: &Usage) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(self.stats(usage));
    }
}

impl Usage {
    fn add(&mut self, what: Wanted<'_>) {
        match what {
            Wanted::Bytes(_) => {}
            Wanted::Content(digest, size) => {
                if self.contents.insert(digest.clone(), size).is_none() {
                    self.bytes = self.bytes.saturating_add(size);
                }
            }
            Wanted::Tags(number) => self.tags = self.tags.saturating_add(number),
        }
    }
}

/// A body that ends with an error where there is no `room` for more behind `before` bytes: nobody said how many there would be.
pub(super) fn bounded(body: &mut Body, room: QuotaExceeded, before: u64) -> Body {
    let body = std::mem::replace(body, stream::empty().boxed());
    let mut total = before;
    let counted = body.map(move |piece| {
        let piece = piece?;
        total = total.saturating_add(piece.len() as u64);
        if room.used.saturating_add(total) > room.limit {
            return Err(BodyError::OverQuota(QuotaExceeded { wanted: total, ..room.clone() }));
        }
        Ok(piece)
    });
    counted.boxed()
}
