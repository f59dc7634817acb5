//! Verification from time to time: by one replica of all, and gone on with by another if that one stops.
//!
//! When everything was last looked at stands in the store, and a [`Lease`](crate::registry::Lease) says who is at it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_backends::Condition;
use tokio::sync::mpsc;

use super::{Checked, Verification};
use crate::registry::record::{self, Record};
use crate::registry::{Claimant, Registry, Result, layout, milliseconds, now};

/// For how long whoever is at it is believed to be, when nothing is heard of them.
const LEASE: Duration = Duration::from_mins(2);

/// The name of the lease. No queue has one like it.
const WORK: &str = "_verification";

/// When all that is stored was last looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::registry) struct ScheduleRecord {
    /// In milliseconds since 1970. Where it never was: since when that is known.
    ended: u64,
}

impl Record for ScheduleRecord {}

/// Verifies when it is time.
#[derive(Debug)]
pub struct Verifier {
    registry: Arc<Registry>,
    claimant: Claimant,
}

impl Verifier {
    /// One of those that may be at the replicas of a registry.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        let claimant = registry.claimant(WORK, LEASE);
        Self { registry, claimant }
    }

    /// Verifies what is stored, at `rate` bytes in a second, if that was last done longer than `interval` ago and no other
    /// replica is at it. `None` if it is not time, or another replica has taken it over. To be asked again and again: that
    /// another one is not at it any more shows only with time.
    pub async fn verify_when_due(
        &mut self,
        interval: Duration,
        rate: Option<u64>,
    ) -> Result<Option<Checked>> {
        if !self.registry.is_due(interval).await? {
            return Ok(None);
        }
        let Some(mut lease) = self.claimant.claim().await? else { return Ok(None) };
        // While it was waited for, somebody else may have done it.
        let verified = if self.registry.is_due(interval).await? {
            tokio::select! {
                verified = self.registry.verify_unheard(rate) => verified,
                () = lease.keep() => Ok(None),
            }
        } else {
            Ok(None)
        };
        lease.release().await;
        verified
    }
}

impl Registry {
    /// All that is stored has been looked at.
    pub(super) async fn verified_now(&self) -> Result<()> {
        let bytes = record::encode(&ScheduleRecord { ended: now() });
        self.store.put(&layout::schedule(), bytes, Condition::None).await?;
        Ok(())
    }

    async fn is_due(&self, interval: Duration) -> Result<bool> {
        let found = record::find::<ScheduleRecord>(self.store.as_ref(), &layout::schedule()).await;
        let Some((found, _)) = record::unless_damaged(found)? else {
            // Nobody knows when it was. Where everybody starts anew, nobody begins to read everything at once.
            self.verified_now().await?;
            return Ok(false);
        };
        Ok(found.ended.saturating_add(milliseconds(interval)) <= now())
    }

    /// Verifies with nobody there to listen but the log.
    async fn verify_unheard(&self, rate: Option<u64>) -> Result<Option<Checked>> {
        let wanted = Verification { rate, ..Verification::default() };
        let (lines, mut events) = mpsc::channel(1);
        let listen = async move { while events.recv().await.is_some() {} };
        // With its end nobody tells anything any more.
        let verify = async move { self.verify(wanted, &lines).await };
        futures::join!(verify, listen).0
    }
}
