//! Verification from time to time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::{Checked, Verification};
use crate::registry::schedule::Schedule;
use crate::registry::{Registry, Result, layout};

/// Verifies when it is time.
#[derive(Debug)]
pub struct Verifier {
    registry: Arc<Registry>,
    schedule: Schedule,
}

impl Verifier {
    /// One of those that may be at the replicas of a registry.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        let schedule = Schedule::new(Arc::clone(&registry), "_verification", layout::verified());
        Self { registry, schedule }
    }

    /// Verifies what is stored, at `rate` bytes in a second, if that was last done longer than `interval` ago and no other
    /// replica is at it. `None` if it is not time, or another replica has taken it over. To be asked again and again.
    pub async fn verify_when_due(
        &mut self,
        interval: Duration,
        rate: Option<u64>,
    ) -> Result<Option<Checked>> {
        self.schedule.when_due(interval, self.registry.verify_unheard(rate)).await
    }

    /// When that was last done, by whatever replica, or since when it is waited for.
    pub async fn last_done(&self) -> Result<Option<SystemTime>> {
        self.schedule.last_done().await
    }
}

impl Registry {
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
