//! [`Schedule`]: work that is done from time to time, by one replica of all, and gone on with by another if that one stops.
//!
//! When it was last done stands in the store, and a [`Lease`](super::Lease) says who is at it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use storage_backends::{Condition, Key};

use super::record::{self, Record};
use super::{Claimant, Registry, Result, milliseconds, now};

/// For how long whoever is at it is believed to be, when nothing is heard of them.
const LEASE: Duration = Duration::from_mins(2);

/// When something was last done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ScheduleRecord {
    /// In milliseconds since 1970. Where it never was: since when that is known.
    ended: u64,
}

impl Record for ScheduleRecord {}

/// Work that is done from time to time.
#[derive(Debug)]
pub(super) struct Schedule {
    registry: Arc<Registry>,
    claimant: Claimant,
    /// Where it stands when it was last done.
    done: Key,
}

impl Schedule {
    /// For one of those that may be at the replicas of a registry. The lease has the name of the work, which begins with `_`: no
    /// queue has one like it. `done` is where it stands when it was done.
    pub(super) fn new(registry: Arc<Registry>, work: &str, done: Key) -> Self {
        let claimant = registry.claimant(work, LEASE);
        Self { registry, claimant, done }
    }

    /// Does the work if it was last done longer than `interval` ago and no other replica is at it. `None` if it is not time, or
    /// another replica has taken it over. To be asked again and again: that another one is not at it any more shows only
    /// with time. Work that comes to its end says so by [`Registry::done_now`].
    pub(super) async fn when_due<T>(
        &mut self,
        interval: Duration,
        work: impl Future<Output = Result<Option<T>>>,
    ) -> Result<Option<T>> {
        if !self.registry.is_due(&self.done, interval).await? {
            return Ok(None);
        }
        let Some(mut lease) = self.claimant.claim().await? else { return Ok(None) };
        // While it was waited for, somebody else may have done it.
        let done = if self.registry.is_due(&self.done, interval).await? {
            tokio::select! {
                done = work => done,
                () = lease.keep() => Ok(None),
            }
        } else {
            Ok(None)
        };
        lease.release().await;
        done
    }

    /// When the work was last done, by whatever replica, or since when it is waited for; `None` where nobody has asked whether it is due.
    pub(super) async fn last_done(&self) -> Result<Option<SystemTime>> {
        let ended = self.registry.last_done(&self.done).await?;
        Ok(ended.map(|ended| SystemTime::UNIX_EPOCH + Duration::from_millis(ended)))
    }
}

impl Registry {
    /// Something that is done from time to time has been done.
    pub(super) async fn done_now(&self, done: &Key) -> Result<()> {
        let bytes = record::encode(&ScheduleRecord { ended: now() });
        self.store.put(done, bytes, Condition::None).await?;
        Ok(())
    }

    async fn is_due(&self, done: &Key, interval: Duration) -> Result<bool> {
        let Some(ended) = self.last_done(done).await? else {
            // Nobody knows when it was. Where everybody starts anew, nobody begins to read everything at once.
            self.done_now(done).await?;
            return Ok(false);
        };
        Ok(ended.saturating_add(milliseconds(interval)) <= now())
    }

    /// When something was last done, in milliseconds since 1970, where that is known.
    async fn last_done(&self, done: &Key) -> Result<Option<u64>> {
        let found = record::find::<ScheduleRecord>(self.store.as_ref(), done).await;
        Ok(record::unless_damaged(found)?.map(|(found, _)| found.ended))
    }
}
