//! Metrics: what is counted under which name, as Prometheus reads it.
//!
//! Labels are words of ours or of the operator's, never names of repositories, tags or users: nobody outside can make series. What happens often is
//! counted in atomics that are at hand; the engine knows nothing of all this, and what it counts is read when
//! somebody asks.

mod certificate;
mod collection;
mod compaction;
mod http;
mod images;
mod imports;
mod limits;
mod process;
mod quotas;
mod storing;
mod verification;
mod webhooks;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry as Registered;

use crate::registry::Registry;
use certificate::Certificate;
use collection::Collection;
use compaction::Compaction;
use http::Http;
use images::Images;
use imports::InProgress;
use limits::Limited;
use process::Process;
use storing::{Chunked, StoreCalls};
use verification::{Found, Verification};
use webhooks::Webhooks;

pub use http::Request;
pub use imports::{ImportTally, Standing};
pub use webhooks::WebhookTally;

/// The type of an [`exposition`](Metrics::exposition).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A time as a gauge has it: in seconds since 1970.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registered: RwLock<Registered>,
    http: Http,
    collection: Collection,
    compaction: Compaction,
    verification: Verification,
    limited: Limited,
    store: Arc<StoreCalls>,
    webhooks: Webhooks,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing was counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registered = Registered::default();
        registered.register(
            "dvcr_build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registered.register_collector(Box::new(Process));
        let (http, collection, store) = (Http::default(), Collection::default(), StoreCalls::default());
        let webhooks = Webhooks::default();
        let limited = Limited::default();
        limited.register(&mut registered);
        http.register(&mut registered);
        collection.register(&mut registered);
        let compaction = Compaction::default();
        compaction.register(&mut registered);
        let verification = Verification::default();
        verification.register(&mut registered);
        store.register(&mut registered);
        webhooks.register(&mut registered);
        Self {
            registered: RwLock::new(registered),
            http,
            collection,
            compaction,
            verification,
            limited,
            store: Arc::new(store),
            webhooks,
        }
    }

    /// A request has come. `route` is one of a few words.
    #[must_use]
    pub fn request(&self, route: &'static str, method: &str) -> Request {
        self.http.begin(route, method)
    }

    /// A request was refused because its client is over `limit`, which is one of a few words.
    pub fn limited(&self, limit: &'static str) {
        self.limited.refused(limit);
    }

    /// A collection has ended.
    pub fn collected<E>(&self, outcome: &Result<crate::registry::Collected, E>) {
        self.collection.ended(outcome.as_ref().ok());
    }

    /// A compaction has ended, or was broken off.
    pub fn compacted<E>(&self, outcome: &Result<Option<crate::registry::Compacted>, E>) {
        match outcome {
            Ok(None) => {}
            Ok(Some(compacted)) => self.compaction.ended(compacted),
            Err(_) => self.compaction.failed(),
        }
    }

    /// A verification has ended, or was broken off.
    pub fn verified<E>(&self, outcome: &Result<Option<crate::registry::Checked>, E>) {
        match outcome {
            Ok(None) => {}
            Ok(Some(checked)) => self.verification.ended(checked),
            Err(_) => self.verification.failed(),
        }
    }

    /// When a compaction was last done, by whatever replica.
    pub fn compacted_last(&self, when: SystemTime) {
        self.compaction.last_done(when);
    }

    /// When what is stored was last verified, by whatever replica.
    pub fn verified_last(&self, when: SystemTime) {
        self.verification.last_done(when);
    }

    /// What is counted of a webhook with this name, which is one of few.
    #[must_use]
    pub fn webhook(&self, name: &str) -> WebhookTally {
        self.webhooks.tally(name)
    }

    /// Who is to be told of the calls of the store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn storage_backends::measure::Observer> {
        Arc::clone(&self.store) as Arc<_>
    }

    /// Tells also what a registry has counted.
    pub fn with_registry(&self, registry: &Registry) {
        self.add(Chunked(Arc::clone(registry.tally())));
        self.add(Found(Arc::clone(registry.verify_tally())));
        self.add(quotas::Counted(Arc::clone(registry.quotas())));
    }

    /// Tells also how many images there are of each kind in each phase, as `count` gives them.
    pub fn with_images(
        &self,
        count: impl Fn() -> Vec<(&'static str, &'static str, u64)> + Send + Sync + 'static,
    ) {
        self.add(Images(Box::new(count)));
    }

    /// Tells also what `tally` counts of imports, and of those that go on what `look` gives.
    pub fn with_imports(
        &self,
        tally: &ImportTally,
        look: impl Fn() -> Vec<Standing> + Send + Sync + 'static,
    ) {
        tally.register(&mut self.registered.write().unwrap_or_else(PoisonError::into_inner));
        self.add(InProgress(Box::new(look)));
    }

    /// Tells also when the certificate of the server expires, as `look` gives it.
    pub fn with_certificate(&self, look: impl Fn() -> Option<SystemTime> + Send + Sync + 'static) {
        self.add(Certificate(Box::new(look)));
    }

    fn add(&self, collector: impl Collector) {
        let mut registered = self.registered.write().unwrap_or_else(PoisonError::into_inner);
        registered.register_collector(Box::new(collector));
    }

    /// All that was counted, in the text format of `OpenMetrics`.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registered.read().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}
