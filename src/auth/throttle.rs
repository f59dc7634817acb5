//! [`Throttle`]: how often somebody may guess.
//!
//! Each try fills a bucket of the client's address and one of the user's name; what is right takes it out again, and time
//! drains them. Who finds a bucket full waits. A try is counted before it is looked at: a thousand at once are no
//! way around. Memory is bounded: a table that is full forgets those first that have nearly drained.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong passwords that one address may send at once, and the time after which it may send one more. Many users may
/// be behind one address.
const OF_ADDRESS: Limit = Limit { burst: 30, every: Duration::from_secs(2) };

/// Wrong passwords for one user, from wherever they come.
const OF_USER: Limit = Limit { burst: 10, every: Duration::from_secs(6) };

/// Buckets that are kept.
const MOST: usize = 20_000;

#[derive(Debug, Clone, Copy)]
struct Limit {
    burst: u32,
    every: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    /// A digest: names may be long, and may be passwords that were typed in the wrong place.
    User([u8; 32]),
}

impl Key {
    fn limit(&self) -> Limit {
        match self {
            Self::Address(_) => OF_ADDRESS,
            Self::User(_) => OF_USER,
        }
    }
}

/// Counts tries.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// When each bucket will have drained.
    drained: Mutex<HashMap<Key, Instant>>,
}

/// Somebody has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait(pub(super) Duration);

impl Throttle {
    /// Whether a try would be refused.
    pub(super) fn look(&self, client: Option<IpAddr>, user: [u8; 32], now: Instant) -> Result<(), Wait> {
        let drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        longest(&drained, &keys(client, user), now)
    }

    /// Counts a try; refuses it when there were too many.
    pub(super) fn begin(&self, client: Option<IpAddr>, user: [u8; 32], now: Instant) -> Result<(), Wait> {
        let mut drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys(client, user);
        longest(&drained, &keys, now)?;
        for key in keys {
            if drained.len() >= MOST && !drained.contains_key(&key) {
                forget(&mut drained, now);
            }
            let every = key.limit().every;
            let until = drained.entry(key).or_insert(now);
            *until = (*until).max(now) + every;
        }
        Ok(())
    }

    /// The try was right, and does not count.
    pub(super) fn right(&self, client: Option<IpAddr>, user: [u8; 32]) {
        let mut drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys(client, user) {
            if let Some(until) = drained.get_mut(&key) {
                *until = until.checked_sub(key.limit().every).unwrap_or(*until);
            }
        }
    }
}

fn keys(client: Option<IpAddr>, user: [u8; 32]) -> Vec<Key> {
    client.map(network).map(Key::Address).into_iter().chain([Key::User(user)]).collect()
}

/// Whose an address is. Whoever has one address of IPv6 has the other 2^64 of its network too.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

/// Refuses for as long as one of the buckets takes no more.
fn longest(drained: &HashMap<Key, Instant>, keys: &[Key], now: Instant) -> Result<(), Wait> {
    let wait = keys.iter().filter_map(|key| wait(key, *drained.get(key)?, now)).max();
    wait.map_or(Ok(()), |wait| Err(Wait(wait)))
}

/// How long until a bucket takes one more.
fn wait(key: &Key, drained: Instant, now: Instant) -> Option<Duration> {
    let Limit { burst, every } = key.limit();
    let full = every * burst;
    let level = drained.saturating_duration_since(now) + every;
    level.checked_sub(full).filter(|wait| !wait.is_zero())
}

/// Makes room: all that has drained, and the half that will have soonest.
fn forget(drained: &mut HashMap<Key, Instant>, now: Instant) {
    drained.retain(|_, until| *until > now);
    if drained.len() < MOST {
        return;
    }
    let mut times: Vec<Instant> = drained.values().copied().collect();
    let (_, middle, _) = times.select_nth_unstable(MOST / 2);
    let middle = *middle;
    let mut left = drained.len() - MOST / 2;
    drained.retain(|_, until| {
        let goes = left > 0 && *until <= middle;
        left -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const ALICE: [u8; 32] = [1; 32];

    const ONE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
    const OTHER: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));

    #[test]
    fn who_guesses_waits_and_may_try_again_later() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..OF_USER.burst {
            assert_eq!(throttle.begin(ONE, ALICE, now), Ok(()));
        }
        let Err(Wait(wait)) = throttle.begin(ONE, ALICE, now) else { panic!("it was let in") };
        assert!(wait <= OF_USER.every);
        // Also from elsewhere; others are not touched.
        assert!(throttle.begin(OTHER, ALICE, now).is_err());
        assert_eq!(throttle.begin(ONE, [2; 32], now), Ok(()));
        assert_eq!(throttle.begin(ONE, ALICE, now + wait), Ok(()));
    }

    #[test]
    fn an_address_that_tries_many_users_waits() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let tries = (0..200_u8).filter(|user| throttle.begin(ONE, [*user; 32], now).is_ok());
        assert_eq!(tries.count(), OF_ADDRESS.burst as usize);
        assert_eq!(throttle.begin(OTHER, [9; 32], now), Ok(()));
    }

    #[test]
    fn what_is_right_does_not_count() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(throttle.begin(ONE, ALICE, now), Ok(()));
            throttle.right(ONE, ALICE);
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(network(one), network("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(network(one), network("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn memory_is_bounded_and_who_guesses_most_is_remembered() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        while throttle.begin(None, ALICE, now).is_ok() {}
        for number in 0..200_000_u32 {
            let mut user = [0; 32];
            user[..4].copy_from_slice(&number.to_be_bytes());
            assert_eq!(throttle.begin(None, user, now), Ok(()));
        }
        assert!(throttle.drained.lock().unwrap().len() <= MOST);
        assert!(throttle.begin(None, ALICE, now).is_err());
    }
}
