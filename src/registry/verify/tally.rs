//! [`VerifyTally`]: what verifications have read and found, counted since the process began.
//!
//! It is counted as it happens: one over much data goes on for weeks, and who looks after it wants to hear of damage on the first day.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts for all verifications of a registry.
#[derive(Debug, Default)]
pub struct VerifyTally {
    findings: AtomicU64,
    read: AtomicU64,
}

impl VerifyTally {
    pub(super) fn found(&self) {
        self.findings.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Relaxed);
    }

    /// What was found damaged or missing.
    #[must_use]
    pub fn findings(&self) -> u64 {
        self.findings.load(Relaxed)
    }

    /// Stored bytes that were read, records apart.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read.load(Relaxed)
    }
}
