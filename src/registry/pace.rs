//! [`Pace`]: no more bytes in a second than were asked for, so that whoever pulls does not notice.

use std::time::Duration;

use tokio::time::Instant;

/// Behind this, what was not used of the rate is not made up for.
const SLACK: Duration = Duration::from_secs(1);

/// Bytes that are read in a second, at most.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    /// When what was read so far may have been read.
    due: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// Waits until so many bytes more may have been read.
    pub(super) async fn read(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let earliest = Instant::now().checked_sub(SLACK).unwrap_or(self.due);
        let takes = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
        let takes = Duration::from_micros(u64::try_from(takes).unwrap_or(u64::MAX));
        self.due = self.due.max(earliest) + takes;
        tokio::time::sleep_until(self.due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_as_long_as_the_rate_says() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(1000));
        for _ in 0..10 {
            pace.read(500).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 5);
        Pace::new(None).read(u64::MAX).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}
