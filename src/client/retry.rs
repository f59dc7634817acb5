//! [`Backoff`]: when to try again, and when to give up.

use std::time::Duration;

use super::ClientError;

/// How often is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Tries in a row without any progress.
    pub attempts: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 5 }
    }
}

/// The longest wait between two tries, also when a server asks for more.
const LONGEST: Duration = Duration::from_mins(1);

/// Counts failures in a row and waits longer after each.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    retries: Retries,
}

impl Backoff {
    /// Nothing has failed yet.
    #[must_use]
    pub fn new(retries: Retries) -> Self {
        Self { failures: 0, retries }
    }

    /// Something came through: the next failure is a first one.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits until it makes sense to try again, or gives the error back if it does not.
    pub async fn after(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.failures += 1;
        if !error.is_transient() || self.failures >= self.retries.attempts {
            return Err(error);
        }
        let asked = match &error {
            ClientError::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let wait = asked.unwrap_or_else(|| self.pause()).min(LONGEST);
        tracing::info!(%error, wait_ms = wait.as_millis(), "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// A quarter second, doubled with each failure, and up to a quarter more so that many clients spread.
    fn pause(&self) -> Duration {
        let pause = Duration::from_millis(250) * 2u32.saturating_pow(self.failures.saturating_sub(1).min(8));
        let spread = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| now.subsec_nanos() % 250);
        pause + pause * spread / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> ClientError {
        ClientError::Silent { url: "http://x".to_owned(), patience: Duration::from_secs(1) }
    }

    #[tokio::test]
    async fn it_gives_up_after_failures_in_a_row_and_not_after_progress() {
        let mut backoff = Backoff::new(Retries { attempts: 2 });
        for _ in 0..3 {
            backoff.after(failure()).await.unwrap();
            backoff.progressed();
        }
        backoff.after(failure()).await.unwrap();
        assert!(backoff.after(failure()).await.is_err());
    }

    #[tokio::test]
    async fn what_cannot_get_better_is_not_tried_again() {
        let mut backoff = Backoff::new(Retries { attempts: 3 });
        assert!(backoff.after(ClientError::NotFound { what: "x".to_owned() }).await.is_err());
    }
}
