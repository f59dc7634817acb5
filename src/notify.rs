//! Webhooks: others are told of pushes and deletions by HTTP.
//!
//! What was acknowledged is told, at least once, whatever happens to this process or to the receiver: an event is in the store's
//! outbox ([`registry`](crate::registry)) before the client has its answer, and leaves it when the receiver has answered with success.
//!
//! - [`Notifier`] has those who want to hear of changes put on the list of the registry, whose engine writes the events.
//! - `deliverer.rs` works off the queue of one webhook. Each has one, so that a dead receiver holds up nobody else; of several
//!   replicas, the one that holds the lease of the queue does.
//! - `schedule.rs` decides what is tried when, `cloud_event.rs` what is sent, `signature.rs` how the receiver knows that it is from
//!   us, `endpoint.rs` how it gets there.

mod cloud_event;
mod deliverer;
mod endpoint;
mod schedule;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Identity, Pattern};
use crate::metrics::Metrics;
use crate::registry::{Change, Listener, Registry, Repositories};
use deliverer::Deliverer;

pub use crate::registry::QueueName;
pub use endpoint::{Delivery, Endpoint, HttpEndpoint, HttpOptions, InvalidEndpoint, Undelivered};
pub use signature::{InvalidSecret, Secret};

/// Somebody who wants to hear of changes.
#[derive(Debug)]
pub struct Webhook {
    /// What it is called in logs and metrics. Its queue in the store has the same name.
    pub name: QueueName,
    /// Which changes.
    pub changes: Vec<Change>,
    /// Where. Nobody's name is put into the patterns.
    pub repositories: Vec<Pattern>,
    /// For how long an event is tried.
    pub give_up_after: Duration,
    /// How it is told.
    pub endpoint: Arc<dyn Endpoint>,
}

/// How fast everything goes. The defaults are for production; tests make them small.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The wait behind the first failure. Each further one of the same event doubles it.
    pub first: Duration,
    /// The longest such wait.
    pub longest: Duration,
    /// The longest wait between two tries at a receiver that answers nothing well.
    pub pause: Duration,
    /// How often a process looks for events that others have written: each time is a listing, which costs money in a bucket.
    /// Of its own events it knows at once.
    pub poll: Duration,
    /// For how long a queue is served by nobody after a process was killed that did.
    pub lease: Duration,
    /// For how long a deletion that nobody has confirmed is waited for. It holds up what has happened since, so that they are
    /// told in their order.
    pub settles: Duration,
    /// For how long such a deletion may be under way.
    pub undecided: Duration,
    /// For how long a delivery may go on when the process is told to stop.
    pub grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_hours(1),
            pause: Duration::from_mins(1),
            poll: Duration::from_secs(30),
            lease: Duration::from_secs(15),
            settles: Duration::from_secs(2),
            undecided: Duration::from_mins(10),
            grace: Duration::from_secs(5),
        }
    }
}

/// Delivers what is told to everybody who wants to hear it.
#[derive(Debug)]
pub struct Notifier {
    stop: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
}

impl Notifier {
    /// Begins to tell these webhooks of what changes in `registry`, and nobody else, and of what is in their queues already. `source` is
    /// what this registry is called.
    #[must_use]
    pub fn start(
        registry: &Arc<Registry>,
        webhooks: Vec<Webhook>,
        source: &str,
        metrics: &Metrics,
        pace: Pace,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let listeners = webhooks.into_iter().map(|webhook| {
            let wake = Arc::new(Notify::new());
            let deliverer = Deliverer {
                registry: Arc::clone(registry),
                queue: webhook.name.clone(),
                endpoint: webhook.endpoint,
                give_up_after: webhook.give_up_after,
                source: source.to_owned(),
                tally: metrics.webhook(webhook.name.as_str()),
                pace,
                wake: Arc::clone(&wake),
                stop: stop.clone(),
            };
            tasks.spawn(deliverer.run());
            let Webhook { name, changes, repositories, .. } = webhook;
            let nobody = Identity::anonymous();
            let repositories = Repositories::that(move |repository| {
                repositories.iter().any(|pattern| pattern.fits(repository.as_str(), &nobody))
            });
            Listener { queue: name, changes, repositories, wake }
        });
        registry.set_listeners(listeners.collect());
        Self { stop, tasks, grace: pace.grace }
    }

    /// Ends the deliveries that are under way, or gives them up soon: they are in the store.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        // A store that stands still keeps nobody from ending.
        let _ = timeout(2 * self.grace, self.tasks.wait()).await;
    }
}
