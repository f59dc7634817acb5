//! [`Progress`]: how far an import is, for whoever wants to show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What an import is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It asks the source and the registry.
    Preparing,
    /// It reads the source to learn its size, or whether the registry has it.
    Measuring,
    /// It converts the disk.
    Converting,
    /// It reads the source and uploads.
    Uploading,
    /// It finishes the upload and writes the manifest.
    Finishing,
}

impl Phase {
    const ALL: [Self; 5] =
        [Self::Preparing, Self::Measuring, Self::Converting, Self::Uploading, Self::Finishing];

    /// What a word means, if it is one of these.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word)
    }

    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Measuring => "measuring",
            Self::Converting => "converting",
            Self::Uploading => "uploading",
            Self::Finishing => "finishing",
        }
    }
}

/// Counters that an import keeps, in bytes. Clones show the same import.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    phase: AtomicU8,
    source: AtomicU64,
    in_all: AtomicU64,
    total: AtomicU64,
    uploaded: Arc<AtomicU64>,
}

impl Progress {
    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let index = usize::from(self.0.phase.load(Ordering::Relaxed));
        Phase::ALL.get(index).copied().unwrap_or(Phase::Preparing)
    }

    /// Bytes of the source that were read in this phase.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.0.source.load(Ordering::Relaxed)
    }

    /// Bytes of the source that were read in all phases, those that were read again too.
    #[must_use]
    pub fn read_in_all(&self) -> u64 {
        self.0.in_all.load(Ordering::Relaxed)
    }

    /// Bytes of the source, if they are known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total.load(Ordering::Relaxed)).filter(|&total| total > 0)
    }

    /// Bytes of the layer that the registry has or is getting.
    #[must_use]
    pub fn uploaded(&self) -> u64 {
        self.0.uploaded.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self, phase: Phase, total: Option<u64>) {
        self.0.source.store(0, Ordering::Relaxed);
        self.0.total.store(total.unwrap_or(0), Ordering::Relaxed);
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.0.source.fetch_add(bytes, Ordering::Relaxed);
        self.0.in_all.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn upload_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.uploaded)
    }
}
