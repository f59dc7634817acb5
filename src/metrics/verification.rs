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
            "When a verification of this process came to its end, in seconds since 1970; 0: none has",
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
        self.last.set(seconds(SystemTime::now()));
    }
}
