//! Compaction from time to time: what is needed of packs of which little is needed is copied, so that these can go.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::registry::schedule::Schedule;
use crate::registry::{Amount, Error, Registry, Result, layout};

/// What a compaction has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Blobs of which something was copied.
    pub rewritten: Amount,
    /// Blobs that could not be, which the log names.
    pub failed: u64,
}

/// Compacts when it is time.
#[derive(Debug)]
pub struct Compactor {
    registry: Arc<Registry>,
    schedule: Schedule,
}

impl Compactor {
    /// One of those that may be at the replicas of a registry.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        let schedule = Schedule::new(Arc::clone(&registry), "_compaction", layout::compacted());
        Self { registry, schedule }
    }

    /// Stores anew what blobs have in packs of which less than half is needed, reading at most `rate` bytes in a second,
    /// if that was last done longer than `interval` ago and no other replica is at it. `None` if it is not time, or another
    /// replica has taken it over. To be asked again and again.
    pub async fn compact_when_due(
        &mut self,
        interval: Duration,
        rate: Option<u64>,
    ) -> Result<Option<Compacted>> {
        self.schedule.when_due(interval, Box::pin(self.registry.compact(rate))).await
    }

    /// When that was last done, by whatever replica, or since when it is waited for.
    pub async fn last_done(&self) -> Result<Option<SystemTime>> {
        self.schedule.last_done().await
    }
}

impl Registry {
    async fn compact(&self, rate: Option<u64>) -> Result<Option<Compacted>> {
        let mut compacted = Compacted::default();
        for (digest, size) in self.in_sparse_packs(|_| {}).await? {
            match self.make_dense(&digest, rate, |_| {}).await {
                Ok(true) => compacted.rewritten.add(size),
                // Somebody has deleted it meanwhile, or rewritten it.
                Ok(false) => {}
                // The others would fare no better, and the next compaction goes on with them.
                Err(error) if is_of_store(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, %digest, "cannot copy a blob out of packs that are to go");
                    compacted.failed += 1;
                }
            }
        }
        self.done_now(&layout::compacted()).await?;
        Ok(Some(compacted))
    }
}

/// Whether a failure is that of the storage, and not of one blob.
fn is_of_store(error: &Error) -> bool {
    match error {
        Error::Store(error) => !error.is_lost(),
        Error::Full | Error::Collecting => true,
        _ => false,
    }
}
