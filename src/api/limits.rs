//! [`Limits`]: how many requests a client may send, and how many it may have answered at one time.
//!
//! Requests fill a bucket of each client, which time drains: who finds it full waits, and what was refused fills nothing. A request that
//! takes hours counts once, when it comes, and as one that is being answered until its answer has been sent and all work for it has
//! ended, also if nobody waits for that any more. Memory is bounded: a
//! client that waits for nothing and has drained its bucket is as if it had never come, and a table that is full forgets those first
//! that have nearly drained. It is of this process alone: so many replicas, so many times the limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::auth::network;

/// What one client may; 0: as much as it likes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestLimits {
    /// Requests in a second, in the long run.
    pub per_second: u32,
    /// Requests at once, after a while without any; 0: as many as come in ten seconds.
    pub burst: u32,
    /// Requests that are being answered at one time.
    pub concurrent: u32,
}

/// Seconds of requests that may come at once, if nothing else is said: a push of an image with twenty layers sends a hundred.
const BURST: u32 = 10;

/// Clients that are remembered, unless more of them have requests in flight.
const MOST: usize = 20_000;

/// When somebody may come back who has too many requests in flight, of which nobody knows when they end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is logged that clients are refused.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Who sends requests, as far as limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A digest of the name, which may be long.
    User([u8; 32]),
    Network(IpAddr),
}

impl Client {
    pub(super) fn user(name: &str) -> Self {
        Self::User(Sha256::digest(name).into())
    }

    pub(super) fn address(address: IpAddr) -> Self {
        Self::Network(network(address))
    }
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Rate,
    Concurrency,
}

impl Limit {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
        }
    }
}

/// Somebody is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) limit: Limit,
    /// After which time it may be otherwise.
    pub(super) wait: Duration,
}

/// Counts requests.
#[derive(Debug)]
pub(super) struct Limits {
    settings: RequestLimits,
    /// The time after which one request has drained.
    every: Duration,
    /// What is in a full bucket.
    full: Duration,
    clients: Mutex<HashMap<Client, Bucket>>,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Bucket {
    /// When it will have drained.
    drained: Instant,
    in_flight: u32,
}

#[derive(Debug, Default)]
struct Told {
    when: Option<Instant>,
    refused: u64,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    /// None: nobody counts.
    of: Option<(Arc<Limits>, Client)>,
}

impl Pass {
    /// Of a request that counts for nothing.
    pub(super) fn free() -> Self {
        Self { of: None }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some((limits, client)) = &self.of {
            limits.leave(*client, Instant::now());
        }
    }
}

impl Limits {
    pub(super) fn new(settings: RequestLimits) -> Self {
        let RequestLimits { per_second, burst, .. } = settings;
        let every = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        let burst = if burst == 0 { per_second.saturating_mul(BURST) } else { burst };
        Self {
            settings,
            every,
            full: every.saturating_mul(burst),
            clients: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Lets a request in, if its client may have one more.
    pub(super) fn enter(self: &Arc<Self>, client: Client, now: Instant) -> Result<Pass, Over> {
        if self.settings.per_second == 0 && self.settings.concurrent == 0 {
            return Ok(Pass::free());
        }
        let mut clients = self.clients();
        if let Some(bucket) = clients.get(&client) {
            self.check(bucket, now)?;
        } else if clients.len() >= MOST {
            forget(&mut clients, now);
        }
        let bucket = clients.entry(client).or_insert(Bucket { drained: now, in_flight: 0 });
        bucket.drained = bucket.drained.max(now) + self.every;
        bucket.in_flight += 1;
        Ok(Pass { of: Some((Arc::clone(self), client)) })
    }

    fn check(&self, bucket: &Bucket, now: Instant) -> Result<(), Over> {
        let level = bucket.drained.saturating_duration_since(now) + self.every;
        if let Some(wait) = level.checked_sub(self.full).filter(|wait| !wait.is_zero()) {
            return Err(Over { limit: Limit::Rate, wait });
        }
        if self.settings.concurrent > 0 && bucket.in_flight >= self.settings.concurrent {
            return Err(Over { limit: Limit::Concurrency, wait: PATIENCE });
        }
        Ok(())
    }

    fn leave(&self, client: Client, now: Instant) {
        let mut clients = self.clients();
        let Some(bucket) = clients.get_mut(&client) else { return };
        bucket.in_flight = bucket.in_flight.saturating_sub(1);
        if bucket.in_flight == 0 && bucket.drained <= now {
            clients.remove(&client);
        }
    }

    /// Counts a refusal, and says how many there were if it is time to tell of them.
    pub(super) fn refused(&self, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.refused += 1;
        if told.when.is_some_and(|when| now.saturating_duration_since(when) < TELL_EVERY) {
            return None;
        }
        told.when = Some(now);
        Some(std::mem::take(&mut told.refused))
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Client, Bucket>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room among those who have nothing in flight: all that have drained, and the half that will have soonest.
fn forget(clients: &mut HashMap<Client, Bucket>, now: Instant) {
    clients.retain(|_, bucket| bucket.in_flight > 0 || bucket.drained > now);
    if clients.len() < MOST {
        return;
    }
    let mut idle: Vec<Instant> =
        clients.values().filter(|bucket| bucket.in_flight == 0).map(|bucket| bucket.drained).collect();
    if idle.is_empty() {
        return;
    }
    let half = idle.len() / 2;
    let (_, middle, _) = idle.select_nth_unstable(half);
    let middle = *middle;
    let mut left = half + 1;
    clients.retain(|_, bucket| {
        let goes = left > 0 && bucket.in_flight == 0 && bucket.drained <= middle;
        left -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(per_second: u32, burst: u32, concurrent: u32) -> Arc<Limits> {
        Arc::new(Limits::new(RequestLimits { per_second, burst, concurrent }))
    }

    fn client(number: u32) -> Client {
        Client::address(IpAddr::V4(number.into()))
    }

    fn over(entered: Result<Pass, Over>) -> Over {
        entered.map(drop).unwrap_err()
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let (limits, now) = (limits(0, 0, 0), Instant::now());
        let passes: Vec<_> = (0..10_000).map(|_| limits.enter(client(1), now).unwrap()).collect();
        assert!(limits.clients().is_empty());
        drop(passes);
    }

    #[test]
    fn who_sends_too_much_waits_and_others_do_not() {
        let (limits, now) = (limits(10, 5, 0), Instant::now());
        for _ in 0..5 {
            limits.enter(client(1), now).unwrap();
        }
        let Over { limit, wait } = over(limits.enter(client(1), now));
        assert_eq!((limit, wait), (Limit::Rate, Duration::from_millis(100)));
        limits.enter(client(2), now).unwrap();
        limits.enter(Client::user("alice"), now).unwrap();
        // What was refused is not counted: one may come when the wait is over, and only one.
        limits.enter(client(1), now + wait).unwrap();
        assert_eq!(over(limits.enter(client(1), now + wait)).limit, Limit::Rate);
    }

    #[test]
    fn a_burst_is_ten_seconds_of_requests_if_nothing_else_is_said() {
        let (limits, now) = (limits(3, 0, 0), Instant::now());
        let entered = (0..100).filter(|_| limits.enter(client(1), now).is_ok()).count();
        assert_eq!(entered, 30);
    }

    #[test]
    fn what_is_in_flight_counts_until_it_ends_however_long_that_takes() {
        let (limits, now) = (limits(0, 0, 2), Instant::now());
        let first = limits.enter(client(1), now).unwrap();
        let _second = limits.enter(client(1), now).unwrap();
        let later = now + Duration::from_hours(9);
        assert_eq!(over(limits.enter(client(1), later)), Over { limit: Limit::Concurrency, wait: PATIENCE });
        let _other = limits.enter(client(2), later).unwrap();
        drop(first);
        let _third = limits.enter(client(1), later).unwrap();
        assert!(limits.enter(client(1), later).is_err());
    }

    #[test]
    fn who_has_gone_leaves_nothing_behind() {
        let limits = limits(0, 0, 2);
        for number in 0..100 {
            drop(limits.enter(client(number), Instant::now()).unwrap());
        }
        assert!(limits.clients().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_users_are_known_by_name() {
        let address = |text: &str| Client::address(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
        assert_ne!(Client::user("alice"), Client::user("bob"));
    }

    #[test]
    fn memory_is_bounded_and_who_sends_most_is_remembered() {
        let (limits, now) = (limits(1, 10, 100), Instant::now());
        while limits.enter(Client::user("flood"), now).is_ok() {}
        let held = limits.enter(Client::user("slow"), now).unwrap();
        for number in 0..100_000 {
            drop(limits.enter(client(number), now).unwrap());
        }
        assert!(limits.clients().len() <= MOST);
        assert!(limits.enter(Client::user("flood"), now).is_err());
        assert_eq!(limits.clients()[&Client::user("slow")].in_flight, 1);
        drop(held);
    }

    #[test]
    fn refusals_are_told_of_now_and_then() {
        let (limits, now) = (limits(1, 1, 0), Instant::now());
        assert_eq!(limits.refused(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(limits.refused(now + TELL_EVERY / 2), None);
        }
        assert_eq!(limits.refused(now + TELL_EVERY), Some(1001));
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_burst_and_the_rate(
            per_second in 1..50_u32,
            burst in 1..50_u32,
            gaps in proptest::collection::vec(0..200_u64, 1..300),
        ) {
            let (limits, begun) = (limits(per_second, burst, 0), Instant::now());
            let (mut now, mut entered) = (begun, 0_u64);
            for gap in gaps {
                now += Duration::from_millis(gap);
                match limits.enter(client(1), now) {
                    Ok(_) => entered += 1,
                    // Who waits as told gets in.
                    Err(Over { wait, .. }) => {
                        now += wait;
                        prop_assert!(limits.enter(client(1), now).is_ok());
                        entered += 1;
                    }
                }
                let elapsed = u64::try_from(now.duration_since(begun).as_millis()).unwrap();
                prop_assert!(entered <= u64::from(burst) + elapsed * u64::from(per_second) / 1000 + 1);
            }
        }
    }
}
