//! Imports for images of resources: how they end, how long they take, and whether those that go on move.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds: from a few megabytes nearby to a terabyte from far away.
const DURATIONS: [f64; 12] =
    [1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 86_400.0, 259_200.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    outcome: &'static str,
    reason: &'static str,
}

/// What is counted of imports. Clones count together.
#[derive(Debug, Clone)]
pub struct ImportTally {
    ends: Family<End, Counter>,
    read: Counter,
    took: Histogram,
}

/// Imports that go on, of those in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// A word for what they do.
    pub state: &'static str,
    /// How many they are.
    pub count: u64,
    /// For how long the one that has not moved for the longest time has not; nothing, when there are none.
    pub longest: Duration,
}

impl ImportTally {
    /// Nothing was counted yet. `reasons` are the words that there are for why an import failed.
    #[must_use]
    pub fn new(reasons: impl IntoIterator<Item = &'static str>) -> Self {
        let ends = Family::default();
        // There from the beginning, so that the first of each is seen as a change.
        for reason in reasons {
            for outcome in ["failed", "retried"] {
                let _: &Counter = &ends.get_or_create(&End { outcome, reason });
            }
        }
        for outcome in ["ready", "cancelled"] {
            let _: &Counter = &ends.get_or_create(&End { outcome, reason: "" });
        }
        Self { ends, read: Counter::default(), took: Histogram::new(DURATIONS) }
    }

    /// An import has come to its end, so long after it was asked for.
    pub fn ready(&self, took: Duration) {
        self.end("ready", "");
        self.took.observe(took.as_secs_f64());
    }

    /// An import has failed, and is not tried again.
    pub fn failed(&self, reason: &'static str) {
        self.end("failed", reason);
    }

    /// A try has failed, and another one follows.
    pub fn retried(&self, reason: &'static str) {
        self.end("retried", reason);
    }

    /// Nobody wanted an import any more.
    pub fn cancelled(&self) {
        self.end("cancelled", "");
    }

    /// So many more bytes were read from a source.
    pub fn read(&self, bytes: u64) {
        self.read.inc_by(bytes);
    }

    fn end(&self, outcome: &'static str, reason: &'static str) {
        self.ends.get_or_create(&End { outcome, reason }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "dvcr_imports",
            "Imports that have ended, and tries that failed and are followed by another",
            self.ends.clone(),
        );
        registry.register_with_unit(
            "dvcr_import_read",
            "Bytes that imports have read from their sources, every time that they read them",
            Unit::Bytes,
            self.read.clone(),
        );
        registry.register_with_unit(
            "dvcr_import_duration",
            "From the order to the end of imports that ended well, with waiting and all tries",
            Unit::Seconds,
            self.took.clone(),
        );
    }
}

type Look = Box<dyn Fn() -> Vec<Standing> + Send + Sync>;

/// Looks at the imports that go on when it is asked.
pub(super) struct InProgress(pub(super) Look);

impl fmt::Debug for InProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProgress").finish_non_exhaustive()
    }
}

impl Collector for InProgress {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let standing = (self.0)();
        let mut counts = encoder.encode_descriptor(
            "dvcr_imports_in_progress",
            "Imports that go on, by what they do",
            None,
            MetricType::Gauge,
        )?;
        for Standing { state, count, .. } in &standing {
            let count = ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX));
            count.encode(counts.encode_family(&[("state", *state)])?)?;
        }
        let mut longest = encoder.encode_descriptor(
            "dvcr_import_standstill",
            "For how long the import that has not moved for the longest time has not",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for Standing { state, longest: still, .. } in &standing {
            let seconds = ConstGauge::new(still.as_secs_f64());
            seconds.encode(longest.encode_family(&[("state", *state)])?)?;
        }
        Ok(())
    }
}
