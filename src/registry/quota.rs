//! [`Quotas`]: how much groups of repositories may hold.
//!
//! A quota counts the bytes of blobs and manifests, each once however many of its repositories have it, and tags. Nobody keeps the
//! sum: it is what is stored below the repositories ([`count`]), and what this process has brought since that was listed
//! ([`usage`]).
//!
//! - What is let in is judged by the last count, which may be half a minute old; the next one is made beside it, and nobody waits
//!   but for the first. By what other replicas bring in that time a quota may be overrun.
//! - What is refused is judged by a count that began after the request came, or two seconds before, and after the last
//!   deletion here.
//! - What is about to be stored is reserved first, so that of several that come at once no more get in than there is room
//!   for, and let go if it fails.
//!
//! A blob counts from when it belongs to a repository until it does not: that of an image that was deleted until a collection takes
//! it away, as that of an image to come. Files that are uploaded to become images do not: the images do.

mod count;
mod usage;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use storage_backends::Store;
use tokio::time::Instant;

use super::{BodyError, Error, Repositories, Result};
use crate::oci::{Digest, RepositoryName, Tag, is_uploaded_file};
use usage::{Item, Usage};

/// How old a count may be that lets something in, before a new one is begun.
const FRESH: Duration = Duration::from_secs(30);

/// By how much a count that refuses something may be older than the request, at least: so many who are refused share one.
const SHARED: Duration = Duration::from_secs(2);

/// A limit of what some repositories hold together.
#[derive(Debug, Clone)]
pub struct Quota {
    /// What it is called: for its operator, and for those whom it stops.
    pub name: String,
    /// The folders of names that all of them are in, none of which is in another; the empty one has all. What is listed to count.
    pub folders: Vec<String>,
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

/// All quotas of a registry.
#[derive(Debug)]
pub struct Quotas {
    all: Vec<Arc<Kept>>,
}

/// A quota, and how much of it is used.
#[derive(Debug)]
struct Kept {
    store: Arc<dyn Store>,
    quota: Quota,
    usage: Mutex<Usage>,
    /// Whoever has this counts; it goes on when nobody waits for it any more.
    counting: Arc<tokio::sync::Mutex<()>>,
}

/// What is about to be stored, and counts already. It is let go when this is dropped, unless it was [kept](Self::keep).
#[derive(Debug, Default)]
pub(super) struct Reservation {
    held: Vec<(Arc<Kept>, Vec<Item>)>,
}

impl Quotas {
    pub(super) fn new(store: &Arc<dyn Store>, quotas: Vec<Quota>) -> Self {
        let kept = |quota| {
            let (usage, counting) = (Mutex::default(), Arc::default());
            Arc::new(Kept { store: Arc::clone(store), quota, usage, counting })
        };
        Self { all: quotas.into_iter().map(kept).collect() }
    }

    fn of(&self, name: &RepositoryName) -> Vec<Arc<Kept>> {
        self.all.iter().filter(|kept| kept.has(name)).cloned().collect()
    }

    /// Whether any quota is for a repository.
    pub(super) fn has(&self, name: &RepositoryName) -> bool {
        self.all.iter().any(|kept| kept.has(name))
    }

    /// Refuses so many bytes more, whatever they are.
    pub(super) async fn check(&self, name: &RepositoryName, more: u64) -> Result<()> {
        check(&self.of(name), more).await
    }

    /// Reserves content for a repository. It costs nothing where another repository of the quota has it.
    pub(super) async fn take_content(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<Reservation> {
        self.take(name, &[Item::content(digest, size)]).await
    }

    /// Reserves a manifest for a repository, and those of its tags that are not there.
    pub(super) async fn take_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        stored: u64,
        tags: &[Tag],
    ) -> Result<Reservation> {
        let mut items = vec![Item::content(digest, stored)];
        items.extend(tags.iter().map(|tag| Item::tag(name, tag)));
        self.take(name, &items).await
    }

    async fn take(&self, name: &RepositoryName, items: &[Item]) -> Result<Reservation> {
        let mut reservation = Reservation::default();
        for kept in self.of(name) {
            let asked = Instant::now();
            kept.ready(asked).await?;
            if kept.usage().reserve(&kept.quota, items).is_err() {
                kept.count_to_refuse(asked).await?;
                kept.usage().reserve(&kept.quota, items)?;
            }
            reservation.held.push((kept, items.to_vec()));
        }
        Ok(reservation)
    }

    /// Something of a repository was deleted.
    pub(super) fn freed(&self, name: &RepositoryName) {
        for kept in self.of(name) {
            kept.usage().freed(Instant::now());
        }
    }

    /// A body that fails where a repository may not have so much behind `before` bytes: not each one has a length.
    pub(super) fn bounded<S>(
        &self,
        name: &RepositoryName,
        before: u64,
        body: S,
    ) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + use<S>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Send + Unpin,
    {
        let (quotas, room) = (self.of(name), 0);
        stream::try_unfold((body, quotas, before, room), async |(mut body, quotas, passed, mut room)| {
            let Some(piece) = body.try_next().await? else { return Ok(None) };
            let passed = passed.saturating_add(piece.len() as u64);
            if passed > room {
                // What others have deleted since is seen, and what others have brought.
                check(&quotas, passed).await.map_err(|error| match error {
                    Error::QuotaExceeded(exceeded) => BodyError::OverQuota(exceeded),
                    error => BodyError::Unavailable(error.to_string()),
                })?;
                room = quotas.iter().map(|kept| kept.usage().room(&kept.quota)).min().unwrap_or(u64::MAX);
            }
            Ok(Some((piece, (body, quotas, passed, room))))
        })
    }

    /// What each quota allows, and what there is: counted now.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn count_all(&self) -> Result<Vec<QuotaStats>> {
        let now = Instant::now();
        for kept in &self.all {
            kept.count_since(now).await?;
        }
        Ok(self.known())
    }

    /// The same as far as it is known, without what was never counted.
    #[must_use]
    pub fn known(&self) -> Vec<QuotaStats> {
        let counted = self.all.iter().filter(|kept| kept.usage().begun().is_some());
        counted.map(|kept| kept.usage().stats(&kept.quota)).collect()
    }
}

async fn check(quotas: &[Arc<Kept>], more: u64) -> Result<()> {
    for kept in quotas {
        let asked = Instant::now();
        kept.ready(asked).await?;
        if kept.usage().judge(&kept.quota, more, 0).is_err() {
            kept.count_to_refuse(asked).await?;
            kept.usage().judge(&kept.quota, more, 0)?;
        }
    }
    Ok(())
}

impl Kept {
    fn has(&self, name: &RepositoryName) -> bool {
        !is_uploaded_file(name.as_str()) && self.quota.repositories.has(name)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a count, and if it is old a new one is on its way.
    async fn ready(self: &Arc<Self>, asked: Instant) -> Result<()> {
        let begun = self.usage().begun();
        match begun {
            None => self.count_since(asked).await,
            Some(begun) if asked.duration_since(begun) < FRESH => Ok(()),
            Some(_) => {
                if let Ok(turn) = Arc::clone(&self.counting).try_lock_owned() {
                    let counting = Arc::clone(self).count(turn);
                    tokio::spawn(async move {
                        if let Err(error) = counting.await {
                            tracing::warn!(%error, "what is under a quota could not be counted anew");
                        }
                    });
                }
                Ok(())
            }
        }
    }

    /// Counts, unless there is a count already that is new enough to refuse something.
    async fn count_to_refuse(self: &Arc<Self>, asked: Instant) -> Result<()> {
        let (took, freed) = {
            let usage = self.usage();
            (usage.took(), usage.last_freed())
        };
        // Counting is no more than half of what is done for those who are refused.
        let shared = asked.checked_sub(SHARED.max(took)).unwrap_or(asked);
        self.count_since(freed.map_or(shared, |freed| shared.max(freed))).await
    }

    /// Counts, unless there is a count that began at that time or later. It goes on if nobody waits for it any more.
    async fn count_since(self: &Arc<Self>, since: Instant) -> Result<()> {
        let turn = Arc::clone(&self.counting).lock_owned().await;
        if self.usage().begun().is_some_and(|begun| begun >= since) {
            return Ok(());
        }
        match tokio::spawn(Arc::clone(self).count(turn)).await {
            Ok(counted) => counted,
            // The process is about to stop.
            Err(_) => Err(Error::Collecting),
        }
    }
}

impl Reservation {
    /// What was reserved is stored.
    pub(super) fn keep(mut self) {
        for (kept, items) in self.held.drain(..) {
            kept.usage().settle(&items, Some(Instant::now()));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for (kept, items) in self.held.drain(..) {
            kept.usage().settle(&items, None);
        }
    }
}
