//! Verifications: when the last one was, and what they have found.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::seconds;
use crate::registry::{Checked, VerifyTally};

/// What is counted of verifications.
#[derive(Debug, Default)]
pub(super) struct Verification {
    failed: Counter,
    last: Gauge,
}

impl Verification {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "dvcr_verification_failures",
            "Verifications that failed before their end, or could not read all",
            self.failed.clone(),
        );
        registry.register(
            "dvcr_verification_last_success_timestamp_seconds",
            "When a verification by any replica came to its end, or since when one is waited for, in seconds since 1970",
            self.last.clone(),
        );
    }

    pub(super) fn failed(&self) {
        self.failed.inc();
    }

    pub(super) fn ended(&self, checked: &Checked) {
        if checked.unknown > 0 {
            // It passed over what the store would not give.
            self.failed();
        }
        self.last_done(SystemTime::now());
    }

    /// When one was last done, by whatever replica.
    pub(super) fn last_done(&self, when: SystemTime) {
        self.last.set(seconds(when));
    }
}

/// What verifications have found and read so far.
#[derive(Debug)]
pub(super) struct Found(pub(super) Arc<VerifyTally>);

impl Collector for Found {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, count) in [
            (
                "dvcr_verification_findings",
                "What verifications have found missing or damaged",
                self.0.findings(),
            ),
            ("dvcr_verification_read_bytes", "Stored bytes that they have read", self.0.read_bytes()),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}
