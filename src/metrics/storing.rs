//! The store: its calls; and what chunks have spared it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use storage_backends::measure::{Answer, Observer, Outcome};

use crate::registry::Tally;

/// Seconds: from a file that is in memory to a server that hardly answers.
const DURATIONS: [f64; 12] = [0.000_1, 0.000_5, 0.002, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    answer: &'static str,
}

/// Calls of the store.
#[derive(Debug, Clone)]
pub(super) struct StoreCalls {
    calls: Family<Call, Counter>,
    durations: Family<Operation, Histogram>,
    requests: Family<Answered, Counter>,
}

impl Default for StoreCalls {
    fn default() -> Self {
        let durations = Family::new_with_constructor((|| Histogram::new(DURATIONS)) as fn() -> Histogram);
        Self { calls: Family::default(), durations, requests: Family::default() }
    }
}

impl StoreCalls {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("dvcr_store_calls", "Calls of the store, and how they ended", self.calls.clone());
        registry.register_with_unit(
            "dvcr_store_call_duration",
            "How long calls of the store take, with what the backend tries again by itself",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "dvcr_store_requests",
            "HTTP requests to the server of a bucket; those that it did not answer well are sent again",
            self.requests.clone(),
        );
    }
}

impl Observer for StoreCalls {
    fn called(&self, operation: &'static str, outcome: Outcome, took: Duration) {
        self.calls.get_or_create(&Call { operation, outcome: outcome.as_str() }).inc();
        self.durations.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }

    fn answered(&self, answer: Answer) {
        self.requests.get_or_create(&Answered { answer: answer.as_str() }).inc();
    }
}

/// What the engine has counted of chunks.
#[derive(Debug)]
pub(super) struct Chunked(pub(super) Arc<Tally>);

impl Collector for Chunked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.counts();
        let mut family = encoder.encode_descriptor(
            "dvcr_dedup_bytes",
            "Bytes of blobs that came to be stored in chunks: zeros and known chunks are not stored, new ones are",
            None,
            MetricType::Counter,
        )?;
        for (result, bytes) in [("zeros", counts.zeros), ("known", counts.known), ("new", counts.new)] {
            ConstCounter::new(bytes).encode(family.encode_family(&[("result", result)])?)?;
        }
        let stored = ConstCounter::new(counts.stored);
        stored.encode(encoder.encode_descriptor(
            "dvcr_dedup_stored_bytes",
            "Bytes that new chunks take in the store, compressed",
            None,
            MetricType::Counter,
        )?)
    }
}
