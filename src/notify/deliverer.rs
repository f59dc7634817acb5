//! [`Deliverer`]: works off the queue of one webhook.
//!
//! It is idle until its own process writes an event, or a look shows one of somebody else's. Then it takes the lease of the queue,
//! delivers one event after the other, and gives the lease back when the queue is empty. While it holds the lease it looks for new
//! ones whenever there is nothing else to do.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cloud_event;
use super::endpoint::{Delivery, Endpoint};
use super::schedule::{Next, Schedule, jittered};
use super::{Pace, QueueName};
use crate::metrics::WebhookTally;
use crate::registry::{Claimant, Error, Event, Registry, Result, written_at};

/// Events that are known of at one time, the oldest: a few bytes each. Those behind them wait until these are delivered or given up.
const WINDOW: usize = 10_000;

/// The shortest time between two listings of a queue.
const BREATH: Duration = Duration::from_secs(1);

/// How often it is looked whether a deletion that is just going on is confirmed.
const SOON: Duration = Duration::from_millis(20);

pub(super) struct Deliverer {
    pub(super) registry: Arc<Registry>,
    pub(super) queue: QueueName,
    pub(super) endpoint: Arc<dyn Endpoint>,
    pub(super) give_up_after: Duration,
    /// What this registry is called.
    pub(super) source: String,
    pub(super) tally: WebhookTally,
    pub(super) pace: Pace,
    /// An event was written by this process.
    pub(super) wake: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

/// How a look at the queue ended.
enum Round {
    /// There is nothing to deliver.
    Empty,
    /// Somebody else delivers it.
    Others,
    /// The store does not tell.
    Failed,
}

impl Deliverer {
    pub(super) async fn run(self) {
        let mut claimant = self.registry.claimant(self.queue.as_str(), self.pace.lease);
        let mut schedule = Schedule::new(self.pace);
        let mut last = Round::Empty;
        while !self.stop.is_cancelled() {
            last = match self.round(&last, &mut claimant, &mut schedule).await {
                Ok(round) => round,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(webhook = %self.queue, error, "the events of a webhook cannot be read; it is tried again");
                    Round::Failed
                }
            };
            let (wait, can_wake) = match last {
                Round::Empty => (self.pace.poll, true),
                // They look for more themselves. If they are gone, this is how it is found out.
                Round::Others | Round::Failed => (self.pace.lease / 3, false),
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.wake.notified(), if can_wake => {}
                () = sleep(jittered(wait)) => {}
            }
        }
    }

    /// Looks at the queue, and delivers what is in it until it is empty.
    async fn round(&self, last: &Round, claimant: &mut Claimant, schedule: &mut Schedule) -> Result<Round> {
        // While others deliver, the lease tells whether they still do; a listing costs more.
        let mut pending = None;
        if !matches!(last, Round::Others) {
            let found = self.look().await?;
            if found.is_empty() {
                return Ok(Round::Empty);
            }
            pending = Some(found);
        }
        let Some(mut lease) = claimant.claim().await? else { return Ok(Round::Others) };
        let outcome = tokio::select! {
            outcome = self.deliver_all(pending, schedule) => outcome.map(|()| Round::Empty),
            () = lease.keep() => {
                tracing::info!(webhook = %self.queue, "another process may deliver the events of a webhook from now on");
                Ok(Round::Others)
            }
        };
        lease.release().await;
        outcome
    }

    async fn look(&self) -> Result<Vec<Uuid>> {
        let pending = self.registry.pending(&self.queue, WINDOW).await?;
        self.tally.pending(pending.len());
        Ok(pending)
    }

    /// Delivers until the queue is empty, or the process is to stop. Of what is in it, something may be known already.
    async fn deliver_all(&self, mut known: Option<Vec<Uuid>>, schedule: &mut Schedule) -> Result<()> {
        loop {
            let pending = match known.take() {
                Some(pending) => pending,
                None => self.look().await?,
            };
            if pending.is_empty() {
                return Ok(());
            }
            let looked = Instant::now();
            schedule.follow(pending);
            while looked.elapsed() < self.pace.poll {
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                match schedule.next(Instant::now()) {
                    Next::Try(id) => self.attend(id, schedule).await?,
                    Next::Nothing => break,
                    Next::Wait(until) => {
                        let breath = BREATH.min(self.pace.poll);
                        tokio::select! {
                            () = self.stop.cancelled() => return Ok(()),
                            () = sleep_until(until.min(looked + self.pace.poll)) => {}
                            () = async { sleep_until(looked + breath).await; self.wake.notified().await } => break,
                        }
                    }
                }
            }
        }
    }

    /// Does what there is to do about one event.
    async fn attend(&self, id: Uuid, schedule: &mut Schedule) -> Result<()> {
        if schedule.is_told(id) {
            return self.take_out(id, schedule).await;
        }
        let since = since(id);
        let age = since.unwrap_or_default();
        let posted = match self.registry.posted(&self.queue, id).await {
            Ok(Some(posted)) => posted,
            Ok(None) => {
                schedule.gone(id);
                return Ok(());
            }
            Err(error @ Error::Record { .. }) => {
                tracing::warn!(webhook = %self.queue, event = %id, %error, "an event cannot be read");
                if age > self.give_up_after {
                    return self.give_up(id, schedule).await;
                }
                schedule.put_off(id, Instant::now());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if posted.unconfirmed {
            // Most likely whoever deletes confirms it in a moment: told before that, it would be told again. One of the future is not
            // waited for: there is no telling how long.
            if since.is_some_and(|since| since < self.pace.settles) {
                sleep(SOON).await;
                return Ok(());
            }
            if !self.registry.has_happened(&posted.event).await? {
                if age > self.pace.undecided {
                    tracing::info!(webhook = %self.queue, event = %id, "an event is dropped: what it tells did not happen");
                    return self.take_out(id, schedule).await;
                }
                schedule.put_off(id, Instant::now());
                return Ok(());
            }
        }
        // While nobody answers, what is too old is not worth a try.
        if age > self.give_up_after && schedule.is_down() {
            return self.give_up(id, schedule).await;
        }
        self.deliver(id, &posted.event, schedule).await
    }

    async fn deliver(&self, id: Uuid, event: &Event, schedule: &mut Schedule) -> Result<()> {
        let delivery = Delivery { id, body: cloud_event::body(id, event, &self.source) };
        let outcome = tokio::select! {
            outcome = self.endpoint.deliver(delivery) => outcome,
            // It stays in the queue, and whoever comes next delivers it, perhaps once more.
            () = async { self.stop.cancelled().await; sleep(self.pace.grace).await } => return Ok(()),
        };
        match outcome {
            Ok(()) => {
                tracing::debug!(webhook = %self.queue, event = %id, repository = %event.repository, "delivered");
                if schedule.is_down() {
                    tracing::info!(webhook = %self.queue, "a webhook takes events again");
                }
                self.tally.delivered();
                schedule.delivered(id);
                self.take_out(id, schedule).await
            }
            Err(undelivered) => {
                self.tally.failed();
                let age = age(id);
                let wait = schedule.failed(id, Instant::now(), undelivered.retry_after);
                tracing::warn!(
                    webhook = %self.queue,
                    event = %id,
                    repository = %event.repository,
                    reason = undelivered.reason,
                    waiting_s = age.as_secs(),
                    again_in_s = wait.as_secs(),
                    "an event could not be delivered"
                );
                if age > self.give_up_after { self.give_up(id, schedule).await } else { Ok(()) }
            }
        }
    }

    async fn give_up(&self, id: Uuid, schedule: &mut Schedule) -> Result<()> {
        tracing::warn!(
            webhook = %self.queue,
            event = %id,
            waited_s = age(id).as_secs(),
            "an event is given up: nobody is told of it"
        );
        self.tally.given_up();
        self.take_out(id, schedule).await
    }

    async fn take_out(&self, id: Uuid, schedule: &mut Schedule) -> Result<()> {
        self.registry.unpost(&self.queue, id).await?;
        schedule.gone(id);
        Ok(())
    }
}

/// For how long an event has been there; `None`: clocks differ, and it is of the future.
fn since(id: Uuid) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.checked_sub(Duration::from_millis(written_at(id).unwrap_or_default()))
}

/// The same, where one of the future is new.
fn age(id: Uuid) -> Duration {
    since(id).unwrap_or_default()
}
