//! Verifications: when the last one was, and what they have found.

use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::seconds;
use crate::registry::Checked;

/// What is counted of verifications.
#[derive(Debug, Default)]
pub(super) struct Verification {
    findings: Counter,
    read: Counter,
    failed: Counter,
    last: Gauge,
}

impl Verification {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "dvcr_verification_findings",
            "What was found missing or damaged by verifications that went to their end",
            self.findings.clone(),
        );
        registry.register(
            "dvcr_verification_read_bytes",
            "Stored bytes that they have read",
            self.read.clone(),
        );
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
        self.findings.inc_by(checked.findings.saturating_sub(checked.unknown));
        if checked.unknown > 0 {
            // It passed over what the store would not give.
            self.failed();
        }
        self.read.inc_by(checked.read);
        self.last_done(SystemTime::now());
    }

    /// When one was last done, by whatever replica.
    pub(super) fn last_done(&self, when: SystemTime) {
        self.last.set(seconds(when));
    }
}
