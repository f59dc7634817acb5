//! [`Schedule`]: which event of a queue is tried next, and when.
//!
//! Events are tried in their order. One that fails makes way for those behind it, since it may be the event that the receiver does
//! not like; it is tried again after a wait that doubles. And where one after the other fails it is the receiver, which is then
//! tried only now and then, however many events there are. Once it takes one again, all others are due at once, in their order.
//!
//! All this is in memory, a few bytes for each event that has failed: who comes anew begins with tries at once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Pace;

/// So many failures in a row are the receiver's.
const DOWN: u32 = 3;

/// What is tried when.
#[derive(Debug)]
pub(super) struct Schedule {
    pace: Pace,
    /// Events in their order.
    pending: Vec<Uuid>,
    failed: HashMap<Uuid, Failed>,
    /// Events that the receiver has, and that could not be taken out of the queue.
    told: HashSet<Uuid>,
    /// Failures since the last success.
    streak: u32,
    paused: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    /// 0: it was down to the receiver, which is back.
    times: u32,
    due: Instant,
    /// How often it had failed when the receiver came back.
    suspected: u32,
}

/// Who has failed when the receiver came back, so often, is not liked: the receiver was not down but for this one.
const DISLIKED: u32 = 2;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Try this one.
    Try(Uuid),
    /// Nothing until then.
    Wait(Instant),
    /// There is nothing to do.
    Nothing,
}

impl Schedule {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            pending: Vec::new(),
            failed: HashMap::new(),
            told: HashSet::new(),
            streak: 0,
            paused: None,
        }
    }

    /// Goes on with those that are in the queue now.
    pub(super) fn follow(&mut self, pending: Vec<Uuid>) {
        let there: HashSet<&Uuid> = pending.iter().collect();
        self.failed.retain(|id, _| there.contains(id));
        self.told.retain(|id| there.contains(id));
        self.pending = pending;
    }

    /// What to do now.
    pub(super) fn next(&self, now: Instant) -> Next {
        let failed = |id: &Uuid| self.failed.get(id).filter(|failed| failed.times > 0);
        let due = |id: &Uuid| failed(id).map_or(now, |failed| failed.due);
        let Some(earliest) = self.pending.iter().map(due).min() else { return Next::Nothing };
        if let Some(wait) =
            [self.paused, Some(earliest)].into_iter().flatten().max().filter(|wait| *wait > now)
        {
            return Next::Wait(wait);
        }
        let times = |id: &Uuid| failed(id).map_or(0, |failed| failed.times);
        // The first of those that have failed least often.
        let next = self.pending.iter().filter(|id| due(id) <= now).min_by_key(|id| times(id));
        next.map_or(Next::Nothing, |id| Next::Try(*id))
    }

    /// The receiver has it.
    pub(super) fn delivered(&mut self, id: Uuid) {
        self.told.insert(id);
        if self.streak >= DOWN {
            for failed in self.failed.values_mut().filter(|failed| failed.times > 0) {
                failed.suspected += 1;
                if failed.suspected < DISLIKED {
                    failed.times = 0;
                }
            }
        }
        (self.streak, self.paused) = (0, None);
    }

    /// Whether the receiver has it already.
    pub(super) fn is_told(&self, id: Uuid) -> bool {
        self.told.contains(&id)
    }

    /// Whether the receiver answers nothing well.
    pub(super) fn is_down(&self) -> bool {
        self.streak >= DOWN
    }

    /// It is not in the queue any more.
    pub(super) fn gone(&mut self, id: Uuid) {
        self.pending.retain(|other| *other != id);
        self.failed.remove(&id);
        self.told.remove(&id);
    }

    /// A try has failed. Says when it is tried again at the earliest; `asked` is for how long the receiver wants to be left alone.
    pub(super) fn failed(&mut self, id: Uuid, now: Instant, asked: Option<Duration>) -> Duration {
        self.streak = self.streak.saturating_add(1);
        let pause = doubled(self.pace.first, self.streak, self.pace.pause);
        self.paused = Some(now + jittered(pause.max(asked.unwrap_or_default().min(self.pace.longest))));
        self.put_off(id, now)
    }

    /// It cannot be tried now, and nobody's fault is it.
    pub(super) fn put_off(&mut self, id: Uuid, now: Instant) -> Duration {
        let (times, suspected) =
            self.failed.get(&id).map_or((0, 0), |failed| (failed.times, failed.suspected));
        let times = times.saturating_add(1);
        let wait = jittered(doubled(self.pace.first, times, self.pace.longest));
        self.failed.insert(id, Failed { times, due: now + wait, suspected });
        wait
    }
}

/// The wait behind so many failures.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times.saturating_sub(1).min(30))).min(longest)
}

/// A wait that is up to a quarter shorter or longer, so that many who wait for the same do not come at once.
pub(super) fn jittered(wait: Duration) -> Duration {
    let [random, ..] = *Uuid::new_v4().as_bytes();
    wait.mul_f64(0.75 + f64::from(random) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(count: u128) -> (Schedule, Vec<Uuid>) {
        let ids: Vec<Uuid> = (1..=count).map(Uuid::from_u128).collect();
        let mut schedule = Schedule::new(Pace::default());
        schedule.follow(ids.clone());
        (schedule, ids)
    }

    /// Later than any wait there is.
    fn later(now: Instant) -> Instant {
        now + Duration::from_hours(2)
    }

    #[test]
    fn events_are_tried_in_their_order() {
        let (mut schedule, ids) = schedule(3);
        let now = Instant::now();
        for id in ids {
            assert_eq!(schedule.next(now), Next::Try(id));
            schedule.delivered(id);
            schedule.gone(id);
        }
        assert_eq!(schedule.next(now), Next::Nothing);
    }

    #[test]
    fn one_that_fails_makes_way_for_the_others() {
        let (mut schedule, ids) = schedule(2);
        let now = Instant::now();
        schedule.failed(ids[0], now, None);
        // After the short pause that every failure makes.
        assert!(matches!(schedule.next(now), Next::Wait(_)));
        assert_eq!(schedule.next(later(now)), Next::Try(ids[1]));
        schedule.delivered(ids[1]);
        schedule.gone(ids[1]);
        assert!(matches!(schedule.next(now), Next::Wait(_)), "its own wait goes on");
        assert_eq!(schedule.next(later(now)), Next::Try(ids[0]));
    }

    #[test]
    fn waits_double_up_to_the_longest_and_nobody_waits_for_exactly_as_long() {
        let (mut schedule, ids) = schedule(1);
        let mut seconds = 1.0;
        for _ in 0..40 {
            let wait = schedule.put_off(ids[0], Instant::now()).as_secs_f64();
            assert!((seconds * 0.74..seconds * 1.26).contains(&wait), "{wait} is not about {seconds}");
            seconds = f64::min(seconds * 2.0, 3600.0);
        }
        let waits: HashSet<Duration> = (0..100).map(|_| jittered(Duration::from_hours(1))).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }

    #[test]
    fn a_receiver_that_is_down_is_tried_now_and_then_however_many_events_wait() {
        let (mut schedule, ids) = schedule(100);
        let mut now = Instant::now();
        let begun = now;
        for expected in ids.iter().take(20) {
            match schedule.next(now) {
                Next::Try(id) => {
                    assert_eq!(id, *expected, "each in its turn");
                    schedule.failed(id, now, None);
                }
                next => panic!("{next:?}"),
            }
            let Next::Wait(until) = schedule.next(now) else { panic!("it goes on at once") };
            now = until;
        }
        assert!(schedule.is_down());
        assert!(now - begun > Duration::from_mins(9), "{:?}", now - begun);
        // And once it is back, all are due, in their order.
        schedule.delivered(ids[50]);
        schedule.gone(ids[50]);
        assert!(!schedule.is_down());
        for id in ids.iter().filter(|id| **id != ids[50]) {
            assert_eq!(schedule.next(now), Next::Try(*id));
            schedule.delivered(*id);
            schedule.gone(*id);
        }
    }

    #[test]
    fn events_that_are_not_liked_do_not_hold_up_others_however_many_they_are() {
        let (mut schedule, ids) = schedule(60);
        let (disliked, liked) = ids.split_at(20);
        let mut now = Instant::now();
        let (mut failures, mut delivered) = (0, Vec::new());
        while delivered.len() < liked.len() {
            match schedule.next(now) {
                Next::Try(id) if disliked.contains(&id) => {
                    failures += 1;
                    schedule.failed(id, now, None);
                }
                Next::Try(id) => {
                    delivered.push(id);
                    schedule.delivered(id);
                    schedule.gone(id);
                }
                Next::Wait(until) => now = until,
                Next::Nothing => panic!("some are left"),
            }
        }
        assert_eq!(delivered, liked);
        assert!(failures <= 3 * disliked.len(), "{failures} tries of what is not liked");
    }

    #[test]
    fn who_asks_to_be_left_alone_is_but_not_for_ever() {
        for (asked, least, most) in [(600, 450, 750), (1_000_000, 2700, 4500)] {
            let (mut schedule, ids) = schedule(2);
            let now = Instant::now();
            schedule.failed(ids[0], now, Some(Duration::from_secs(asked)));
            let Next::Wait(until) = schedule.next(now) else { panic!("it goes on at once") };
            assert!((least..=most).contains(&(until - now).as_secs()), "{:?}", until - now);
        }
    }

    #[test]
    fn what_is_not_in_the_queue_any_more_is_forgotten() {
        let (mut schedule, ids) = schedule(3);
        let now = Instant::now();
        schedule.failed(ids[0], now, None);
        schedule.delivered(ids[1]);
        assert!(schedule.is_told(ids[1]));
        schedule.follow(vec![ids[2]]);
        assert!(schedule.failed.is_empty() && !schedule.is_told(ids[1]));
        assert_eq!(schedule.next(now), Next::Try(ids[2]));
    }
}
