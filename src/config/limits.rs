//! The settings below `limits`.

use serde::Deserialize;

use super::value;

/// What one client may: a user, or an address while nobody knows who it is. 0: as much as it likes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Requests in a second, in the long run.
    #[serde(deserialize_with = "value::number")]
    pub requests_per_second: u64,
    /// Requests at once, after a while without any; 0: as many as may come in ten seconds.
    #[serde(deserialize_with = "value::number")]
    pub burst: u64,
    /// Requests that are being answered at one time.
    #[serde(deserialize_with = "value::number")]
    pub concurrent_requests: u64,
}

impl LimitsConfig {
    /// What does not go together, or is more than anybody counts.
    pub(super) fn check(&self) -> Result<(), String> {
        // A nanosecond for each is the least that can be told apart.
        const MOST: u64 = 1_000_000;
        for (key, value) in [
            ("requests_per_second", self.requests_per_second),
            ("burst", self.burst),
            ("concurrent_requests", self.concurrent_requests),
        ] {
            if value > MOST {
                return Err(format!("limits.{key} must be at most {MOST}, and 0 is no limit; it is {value}"));
            }
        }
        if self.burst > 0 && self.requests_per_second == 0 {
            return Err(
                "limits.burst needs limits.requests_per_second: without it there is no limit".to_owned()
            );
        }
        Ok(())
    }
}
