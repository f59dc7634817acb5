//! [`Lease`]: which of the processes over a store does what one alone is to do: serve a queue, or verify.
//!
//! A record by compare-and-swap, which its holder writes anew now and then. It names no time: clocks may differ. Whoever wants it
//! watches it by their own clock, and takes it when nobody has written it for as long as it lasts. Its holder stops before that
//! if it cannot write. A process that stands still in between may still do what it was about to: what is done under a
//! lease has to bear being done twice.
//!
//! A store that is not shared has one process, and needs no record.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_backends::{Condition, Key, Store, Version};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Registry, Result, condemn, layout, record};

/// Who is at it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    /// A process; none: it was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<Uuid>,
}

impl record::Record for LeaseRecord {}

/// Somebody who wants to do it now and then.
#[derive(Debug)]
pub struct Claimant {
    store: Arc<dyn Store>,
    key: Key,
    id: Uuid,
    lasts: Duration,
    /// The lease of somebody else, and since when it is as it is.
    watched: Option<(Version, Instant)>,
}

/// Nobody else does it while [`keep`](Self::keep) runs.
#[derive(Debug)]
pub struct Lease<'a> {
    claimant: &'a Claimant,
    /// None: there is nobody else.
    version: Option<Version>,
    /// Since when it lasts.
    since: Instant,
}

impl Registry {
    /// Somebody who wants to do the `work` of that name; `lasts` is for how long a lease does that nobody keeps up.
    #[must_use]
    pub fn claimant(&self, work: &str, lasts: Duration) -> Claimant {
        Claimant {
            store: Arc::clone(&self.store),
            key: layout::lease(work),
            id: Uuid::new_v4(),
            lasts,
            watched: None,
        }
    }
}

impl Claimant {
    /// Takes the lease, unless somebody else has it.
    pub async fn claim(&mut self) -> Result<Option<Lease<'_>>> {
        let since = Instant::now();
        if !self.store.capabilities().shared {
            return Ok(Some(Lease { claimant: self, version: None, since }));
        }
        let found = record::find::<LeaseRecord>(self.store.as_ref(), &self.key).await?;
        let condition = match found {
            // One that was damaged and put aside may have left a tombstone.
            None => condemn::where_none_is(self.store.as_ref(), &self.key).await?,
            Some((LeaseRecord { holder: Some(holder) }, version)) if holder != self.id => {
                let (watched, seen) = self.watched.get_or_insert((version.clone(), since));
                if *watched != version {
                    (*watched, *seen) = (version, since);
                    return Ok(None);
                }
                if seen.elapsed() < self.lasts {
                    return Ok(None);
                }
                Condition::Unchanged(version)
            }
            Some((_, version)) => Condition::Unchanged(version),
        };
        let version = record::put_unique(self.store.as_ref(), &self.key, self.bytes(true), condition).await?;
        if version.is_some() {
            self.watched = None;
        }
        Ok(version.map(|version| Lease { claimant: self, version: Some(version), since }))
    }

    fn bytes(&self, holds: bool) -> bytes::Bytes {
        record::encode_unique(&LeaseRecord { holder: holds.then_some(self.id) })
    }
}

impl Lease<'_> {
    /// Keeps the lease up, and ends when it is lost.
    pub async fn keep(&mut self) {
        let lasts = self.claimant.lasts;
        loop {
            sleep(lasts / 3).await;
            let Some(version) = self.version.clone() else { continue };
            let begun = Instant::now();
            let renewed = timeout(lasts / 3, self.put(true, version)).await;
            match renewed {
                Ok(Ok(Some(version))) => (self.version, self.since) = (Some(version), begun),
                Ok(Ok(None)) => return,
                // Others take it when it has stood still for as long as it lasts.
                Ok(Err(_)) | Err(_) if self.since.elapsed() > lasts / 2 => return,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Gives the lease back: whoever wants it need not wait.
    pub async fn release(self) {
        if let Some(version) = self.version.clone()
            && let Err(error) = self.put(false, version).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "a lease runs out by itself");
        }
    }

    async fn put(&self, holds: bool, version: Version) -> Result<Option<Version>> {
        let Claimant { store, key, .. } = self.claimant;
        record::put_unique(store.as_ref(), key, self.claimant.bytes(holds), Condition::Unchanged(version))
            .await
    }
}
