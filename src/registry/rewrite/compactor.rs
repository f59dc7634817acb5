//! Compaction from time to time: blobs are stored anew that have something in packs of which little is needed.

use std::sync::Arc;
use std::time::Duration;

use crate::registry::schedule::Schedule;
use crate::registry::{Amount, Form, Registry, Result, layout};

/// What a compaction has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Blobs that were stored anew.
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

    /// Stores anew what has something in packs of which less than half is needed, and reads it at `rate` bytes of blobs in a second,
    /// if that was last done longer than `interval` ago and no other replica is at it. `None` if it is not time, or another
    /// replica has taken it over. To be asked again and again.
    pub async fn compact_when_due(
        &mut self,
        interval: Duration,
        rate: Option<u64>,
    ) -> Result<Option<Compacted>> {
        self.schedule.when_due(interval, Box::pin(self.registry.compact(rate))).await
    }
}

impl Registry {
    async fn compact(&self, rate: Option<u64>) -> Result<Option<Compacted>> {
        let mut compacted = Compacted::default();
        for (digest, size) in self.not_in_form(Form::Dense).await? {
            match self.rewrite_at(&digest, Form::Dense, rate, |_| {}).await {
                Ok(true) => compacted.rewritten.add(size),
                // Somebody has deleted it meanwhile, or rewritten it.
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, %digest, "cannot store a blob anew");
                    compacted.failed += 1;
                }
            }
        }
        self.done_now(&layout::compacted()).await?;
        Ok(Some(compacted))
    }
}
