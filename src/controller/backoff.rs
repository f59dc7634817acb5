//! How long is waited between two tries.

use std::time::Duration;

/// The wait after so many failures: `first`, doubled with each one more, and `longest` at most.
pub(super) fn backoff(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_the_one_before_up_to_the_longest() {
        let wait = |failures| backoff(failures, Duration::from_secs(5), Duration::from_mins(1)).as_secs();
        assert_eq!([1, 2, 3, 4, 5, u32::MAX].map(wait), [5, 10, 20, 40, 60, 60]);
        assert_eq!(wait(0), 5, "nobody has failed yet");
    }
}
