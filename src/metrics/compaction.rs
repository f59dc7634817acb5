//! Compactions: what they have copied.

use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::seconds;
use crate::registry::Compacted;

/// What is counted of compactions.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    rewritten: Counter,
    failed: Counter,
    last: Gauge,
}

impl Compaction {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "dvcr_compaction_rewritten_bytes",
            "Bytes of the blobs of which something was copied out of packs of which little was needed",
            self.rewritten.clone(),
        );
        registry.register(
            "dvcr_compaction_failures",
            "Blobs that could not be copied from, and compactions that failed before their end",
            self.failed.clone(),
        );
        registry.register(
            "dvcr_compaction_last_success_timestamp_seconds",
            "When a compaction by any replica came to its end, or since when one is waited for, in seconds since 1970",
            self.last.clone(),
        );
    }

    pub(super) fn failed(&self) {
        self.failed.inc();
    }

    pub(super) fn ended(&self, compacted: &Compacted) {
        self.rewritten.inc_by(compacted.rewritten.bytes);
        self.failed.inc_by(compacted.failed);
        self.last_done(SystemTime::now());
    }

    /// When one was last done, by whatever replica.
    pub(super) fn last_done(&self, when: SystemTime) {
        self.last.set(seconds(when));
    }
}
