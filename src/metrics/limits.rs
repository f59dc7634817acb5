//! Requests that were refused because their client was over a limit.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: &'static str,
}

/// What is counted of limits.
#[derive(Debug)]
pub(super) struct Limited(Family<Limit, Counter>);

impl Default for Limited {
    fn default() -> Self {
        let refused = Family::default();
        // There from the beginning, so that the first one is seen as a change.
        for limit in ["rate", "concurrency"] {
            let _: &Counter = &refused.get_or_create(&Limit { limit });
        }
        Self(refused)
    }
}

impl Limited {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "dvcr_limited_requests",
            "Requests that were refused because their client was over a limit",
            self.0.clone(),
        );
    }

    pub(super) fn refused(&self, limit: &'static str) {
        self.0.get_or_create(&Limit { limit }).inc();
    }
}
