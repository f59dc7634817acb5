//! Webhooks: what was delivered, and what waits. Their names are the operator's own, so there are few.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Delivery {
    webhook: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    webhook: String,
}

/// What is counted of all webhooks.
#[derive(Debug, Default)]
pub(super) struct Webhooks {
    deliveries: Family<Delivery, Counter>,
    pending: Family<Queue, Gauge>,
}

/// What is counted of one webhook.
#[derive(Debug)]
pub struct WebhookTally {
    delivered: Counter,
    failed: Counter,
    given_up: Counter,
    pending: Gauge,
}

impl Webhooks {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "dvcr_webhook_deliveries",
            "Tries to deliver an event, and events that were given up",
            self.deliveries.clone(),
        );
        registry.register(
            "dvcr_webhook_pending",
            "Events in the queue of a webhook when this process last looked",
            self.pending.clone(),
        );
    }

    pub(super) fn tally(&self, webhook: &str) -> WebhookTally {
        let count = |outcome| {
            let labels = Delivery { webhook: webhook.to_owned(), outcome };
            self.deliveries.get_or_create(&labels).clone()
        };
        WebhookTally {
            delivered: count("delivered"),
            failed: count("failed"),
            given_up: count("given_up"),
            pending: self.pending.get_or_create(&Queue { webhook: webhook.to_owned() }).clone(),
        }
    }
}

impl WebhookTally {
    /// The receiver has an event.
    pub fn delivered(&self) {
        self.delivered.inc();
    }

    /// A try has failed.
    pub fn failed(&self) {
        self.failed.inc();
    }

    /// An event is not tried any more.
    pub fn given_up(&self) {
        self.given_up.inc();
    }

    /// So many events wait.
    pub fn pending(&self, count: usize) {
        self.pending.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
