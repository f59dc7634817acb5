//! How far a verification is, in the store.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use storage_backends::Condition;

use super::seen::Seen;
use super::{Depth, Verification};
use crate::oci::Digest;
use crate::registry::record::Record;
use crate::registry::{Registry, Result, layout, now, record};

/// How much work a crash may cost.
const EVERY: Duration = Duration::from_secs(30);

/// Milliseconds after which one that was broken off is begun anew: what it found right may be so no more.
const STALE: u64 = 30 * 24 * 60 * 60 * 1000;

/// How far it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::registry) struct ProgressRecord {
    depth: Depth,
    /// When it began, in milliseconds since 1970.
    begun: u64,
    /// The last blob that is done: they are taken in the order of their digests.
    after: Option<Digest>,
    seen: Seen,
}

impl Record for ProgressRecord {}

/// How far it is, and when that was written down.
#[derive(Debug)]
pub(super) struct Progress {
    record: ProgressRecord,
    saved: Instant,
}

impl Progress {
    /// The last blob that is done.
    pub(super) fn after(&self) -> Option<&Digest> {
        self.record.after.as_ref()
    }

    pub(super) fn seen(&mut self) -> &mut Seen {
        &mut self.record.seen
    }
}

impl Registry {
    /// Where an earlier verification of the same depth was broken off, or the beginning.
    pub(super) async fn resume_verification(&self, wanted: Verification) -> Result<Progress> {
        let begun = now();
        let fresh = ProgressRecord { depth: wanted.depth, begun, after: None, seen: Seen::default() };
        let found = if wanted.restart || wanted.only_look || wanted.depth == Depth::Quick {
            None
        } else {
            let found = record::find::<ProgressRecord>(self.store.as_ref(), &layout::verification()).await;
            record::unless_damaged(found)?.map(|(found, _)| found)
        };
        let is_usable =
            |found: &ProgressRecord| found.depth == wanted.depth && begun < found.begun.saturating_add(STALE);
        Ok(Progress { record: found.filter(is_usable).unwrap_or(fresh), saved: Instant::now() })
    }

    /// A blob is done.
    pub(super) async fn pass_verified(
        &self,
        wanted: Verification,
        progress: &mut Progress,
        blob: Digest,
    ) -> Result<()> {
        progress.record.after = Some(blob);
        if wanted.only_look || wanted.depth == Depth::Quick || progress.saved.elapsed() < EVERY {
            return Ok(());
        }
        self.save_verification(progress).await
    }

    /// Nobody wants to hear the rest: another one goes on from here.
    pub(super) async fn break_off_verification(
        &self,
        wanted: Verification,
        progress: &mut Progress,
    ) -> Result<()> {
        if wanted.only_look || wanted.depth == Depth::Quick || progress.after().is_none() {
            return Ok(());
        }
        self.save_verification(progress).await
    }

    /// Writes down how far it is.
    async fn save_verification(&self, progress: &mut Progress) -> Result<()> {
        let bytes = record::encode(&progress.record);
        self.store.put(&layout::verification(), bytes, Condition::None).await?;
        progress.saved = Instant::now();
        Ok(())
    }

    /// There is nothing to go on with.
    pub(super) async fn end_verification(&self, wanted: Verification) -> Result<()> {
        if wanted.only_look || wanted.depth == Depth::Quick {
            return Ok(());
        }
        self.done_now(&layout::verified()).await?;
        match self.store.delete(&layout::verification()).await {
            Ok(()) | Err(storage_backends::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
