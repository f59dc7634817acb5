//! Verification from time to time: by one replica of all, and gone on with by another if that one stops.
//!
//! When everything was last looked at stands in the store, with until when somebody is at it. Whoever finds that it is time puts
//! down that it is at it, by compare-and-swap, and does so again and again while it works.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_backends::{Condition, Version};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Checked, Verification};
use crate::registry::record::{self, Record};
use crate::registry::{Registry, Result, layout, milliseconds, now};

/// For how long whoever is at it is believed to be.
const TURN: Duration = Duration::from_mins(10);

/// How often it says that it is.
const RENEW: Duration = Duration::from_mins(1);

/// Whose turn it is, and when one ended. In milliseconds since 1970.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::registry) struct ScheduleRecord {
    /// When all that is stored had last been looked at, or was first known not to have been.
    ended: u64,
    /// Until then somebody is at it.
    until: u64,
}

impl Record for ScheduleRecord {}

/// Being at it.
#[derive(Debug)]
struct Turn {
    ended: u64,
    version: Version,
}

impl Registry {
    /// Verifies what is stored, at `rate` bytes in a second, if that was last done longer than `interval` ago and no other
    /// replica is at it. `None` if it is not time, or another replica has taken it over.
    pub async fn verify_when_due(&self, interval: Duration, rate: Option<u64>) -> Result<Option<Checked>> {
        let Some(mut turn) = self.take_turn(interval).await? else { return Ok(None) };
        let wanted = Verification { rate, ..Verification::default() };
        let (lines, mut events) = mpsc::channel(1);
        let listen = async move {
            let mut renew = tokio::time::interval_at(Instant::now() + RENEW, RENEW);
            loop {
                tokio::select! {
                    event = events.recv() => if event.is_none() { return Ok(()) },
                    // Where nobody listens it does not go on: so it ends if the turn is somebody else's.
                    _ = renew.tick() => if !self.renew(&mut turn).await? { return Ok(()) },
                }
            }
        };
        // With its end nobody tells anything any more.
        let verify = async move { self.verify(wanted, &lines).await };
        let (verified, listened): (_, Result<()>) = futures::join!(verify, listen);
        listened?;
        verified
    }

    /// All that is stored has been looked at.
    pub(super) async fn verified_now(&self) -> Result<()> {
        let bytes = record::encode(&ScheduleRecord { ended: now(), until: 0 });
        self.store.put(&layout::schedule(), bytes, Condition::None).await?;
        Ok(())
    }

    async fn take_turn(&self, interval: Duration) -> Result<Option<Turn>> {
        let (store, key, now) = (self.store.as_ref(), layout::schedule(), now());
        let found = record::unless_damaged(record::find::<ScheduleRecord>(store, &key).await)?;
        let Some((found, version)) = found else {
            // Nobody knows when it was. Where everybody starts anew, nobody begins to read everything at once.
            let first = record::encode_unique(&ScheduleRecord { ended: now, until: 0 });
            store.put(&key, first, Condition::None).await?;
            return Ok(None);
        };
        let due = found.ended.saturating_add(milliseconds(interval));
        if now < due || now < found.until {
            return Ok(None);
        }
        let mut turn = Turn { ended: found.ended, version };
        Ok(self.renew(&mut turn).await?.then_some(turn))
    }

    /// Says that we are at it; `false` if that is somebody else by now.
    async fn renew(&self, turn: &mut Turn) -> Result<bool> {
        let until = now().saturating_add(milliseconds(TURN));
        let bytes = record::encode_unique(&ScheduleRecord { ended: turn.ended, until });
        let condition = Condition::Unchanged(turn.version.clone());
        let renewed = record::put_unique(self.store.as_ref(), &layout::schedule(), bytes, condition).await?;
        let Some(version) = renewed else { return Ok(false) };
        turn.version = version;
        Ok(true)
    }
}
