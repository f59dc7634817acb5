//! Collections: whether they work, and what they take away.

use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::seconds;
use crate::registry::Collected;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Run {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gone {
    what: &'static str,
    step: &'static str,
}

/// What is counted of collections.
#[derive(Debug)]
pub(super) struct Collection {
    runs: Family<Run, Counter>,
    objects: Family<Gone, Counter>,
    bytes: Family<Gone, Counter>,
    last: Gauge,
    unreadable: Gauge,
}

impl Default for Collection {
    fn default() -> Self {
        let runs = Family::default();
        for outcome in ["done", "failed"] {
            let _: &Counter = &runs.get_or_create(&Run { outcome });
        }
        Self {
            runs,
            objects: Family::default(),
            bytes: Family::default(),
            last: Gauge::default(),
            unreadable: Gauge::default(),
        }
    }
}

impl Collection {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("dvcr_collection_runs", "Collections that have ended", self.runs.clone());
        registry.register(
            "dvcr_collection_objects",
            "Things that were condemned or deleted",
            self.objects.clone(),
        );
        registry.register(
            "dvcr_collection_bytes",
            "Their bytes: of blobs as clients see them, of data as stored",
            self.bytes.clone(),
        );
        registry.register(
            "dvcr_collection_last_success_timestamp_seconds",
            "When a collection of this process ended well, in seconds since 1970; 0: none has",
            self.last.clone(),
        );
        registry.register(
            "dvcr_collection_unreadable",
            "Records that the last collection could not read; while there are any, no data is deleted",
            self.unreadable.clone(),
        );
    }

    pub(super) fn ended(&self, collected: Option<&Collected>) {
        let outcome = if collected.is_some() { "done" } else { "failed" };
        self.runs.get_or_create(&Run { outcome }).inc();
        let Some(collected) = collected else { return };
        let kinds = [
            ("tags", collected.tags),
            ("manifests", collected.manifests),
            ("uploads", collected.uploads),
            ("members", collected.members),
            ("blobs", collected.blobs),
            ("data", collected.data),
        ];
        for (what, taken) in kinds {
            for (step, amount) in [("condemned", taken.condemned), ("deleted", taken.deleted)] {
                self.objects.get_or_create(&Gone { what, step }).inc_by(amount.count);
                self.bytes.get_or_create(&Gone { what, step }).inc_by(amount.bytes);
            }
        }
        self.unreadable.set(i64::try_from(collected.unreadable).unwrap_or(i64::MAX));
        self.last.set(seconds(SystemTime::now()));
    }
}
