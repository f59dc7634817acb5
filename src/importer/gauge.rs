//! [`Gauge`]: how far and how fast an import is, of the counters that it keeps.

use std::time::Instant;

use super::{Phase, Progress};

/// How far and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Meter {
    /// How much is done, from 0 to 1, if that can be known.
    pub fraction: Option<f64>,
    /// Bytes per second from the beginning of the phase on.
    pub average: u64,
    /// Bytes per second in the last moments.
    pub current: u64,
    /// What is being done, if that is known.
    pub phase: Option<Phase>,
    /// Bytes that were read in all phases.
    pub read: u64,
}

/// Seconds over which the current speed is taken.
const WINDOW: f64 = 0.5;

/// Looks at counters again and again.
#[derive(Debug)]
pub struct Gauge {
    phase: Phase,
    /// A pass has read the source without uploading it, so that half of the reading is done.
    has_measured: bool,
    fraction: Option<f64>,
    /// When the phase began.
    began: Instant,
    /// The last look that counted for the current speed.
    last: (Instant, u64),
    current: u64,
}

impl Default for Gauge {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            phase: Phase::Preparing,
            has_measured: false,
            fraction: None,
            began: now,
            last: (now, 0),
            current: 0,
        }
    }
}

impl Gauge {
    /// How far and how fast it is now.
    pub fn look(&mut self, progress: &Progress) -> Meter {
        let (phase, done) = (progress.phase(), progress.done());
        let now = Instant::now();
        if phase != self.phase {
            self.has_measured |= self.phase == Phase::Measuring;
            (self.phase, self.began, self.last) = (phase, now, (now, 0));
        }
        let part = progress.total().map(|total| ratio(done, total));
        self.fraction = match phase {
            Phase::Preparing | Phase::Converting => self.fraction,
            Phase::Measuring => part.map(|part| part / 2.0).or(self.fraction),
            Phase::Uploading if self.has_measured => part.map(|part| 0.5 + part / 2.0).or(self.fraction),
            Phase::Uploading => part.or(self.fraction),
            Phase::Finishing => Some(1.0),
        };
        let since = now.duration_since(self.last.0).as_secs_f64();
        if since >= WINDOW {
            self.current = per_second(done.saturating_sub(self.last.1), since);
            self.last = (now, done);
        }
        let average = per_second(done, now.duration_since(self.began).as_secs_f64());
        Meter {
            fraction: self.fraction,
            average,
            current: self.current,
            phase: Some(phase),
            read: progress.read_in_all(),
        }
    }
}

/// A part of a whole, from 0 to 1.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a tenth of a percent is shown")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

/// Bytes per second.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "speeds are shown with two digits"
)]
pub fn per_second(bytes: u64, seconds: f64) -> u64 {
    if seconds <= 0.0 { 0 } else { (bytes as f64 / seconds) as u64 }
}
