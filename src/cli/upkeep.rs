//! What a server does by itself, now and then: collections, compactions, verifications, and counts of what is under quotas.
//!
//! All may be broken off wherever they stand. The next one goes on with it, in this process or in another one.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::registry::{Collected, Compactor, Registry, Verifier};

/// How often it is looked whether it is time to compact or to verify, at least.
const LOOK: Duration = Duration::from_mins(5);

/// How often what is under quotas is counted where nobody pushes, for metrics to show what was deleted and collected.
const COUNT: Duration = Duration::from_mins(15);

/// The work that goes on beside requests, until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Upkeep {
    tasks: JoinSet<()>,
}

impl Upkeep {
    /// Begins what is wanted.
    pub(super) fn begin(config: &Config, registry: &Arc<Registry>, metrics: &Arc<Metrics>) -> Self {
        let mut tasks = JoinSet::new();
        if config.collect_interval > 0 {
            let interval = Duration::from_secs(config.collect_interval);
            tasks.spawn(collect(Arc::clone(registry), Arc::clone(metrics), interval));
        }
        if config.compact_interval > 0 {
            let interval = Duration::from_secs(config.compact_interval);
            let rate = Some(config.compact_rate).filter(|rate| *rate > 0);
            let compactor = Compactor::new(Arc::clone(registry));
            tasks.spawn(compact(compactor, Arc::clone(metrics), interval, rate));
        }
        if config.verify_interval > 0 {
            let interval = Duration::from_secs(config.verify_interval);
            let rate = Some(config.verify_rate).filter(|rate| *rate > 0);
            let verifier = Verifier::new(Arc::clone(registry));
            tasks.spawn(verify(verifier, Arc::clone(metrics), interval, rate));
        }
        if !config.quotas.is_empty() {
            tasks.spawn(count(Arc::clone(registry)));
        }
        Self { tasks }
    }

    /// Stops it, wherever it stands.
    pub(super) fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

async fn collect(registry: Arc<Registry>, metrics: Arc<Metrics>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let outcome = registry.collect(false).await;
        metrics.collected(&outcome);
        match outcome {
            Ok(Collected { tags, manifests, uploads, blobs, data, .. }) => tracing::info!(
                tags = tags.deleted.count,
                manifests = manifests.deleted.count,
                uploads = uploads.deleted.count,
                blobs = blobs.deleted.count,
                bytes = data.deleted.bytes,
                bytes_to_go = data.condemned.bytes,
                "collected what nothing needs"
            ),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::warn!(error, "a collection failed; the next one goes on with it");
            }
        }
    }
}

async fn count(registry: Arc<Registry>) {
    loop {
        if let Err(error) = registry.quotas().count_all().await {
            let error = &error as &dyn Error;
            tracing::warn!(
                error,
                "what is under quotas could not be counted; metrics show what was counted before"
            );
        }
        tokio::time::sleep(COUNT).await;
    }
}

async fn compact(mut compactor: Compactor, metrics: Arc<Metrics>, interval: Duration, rate: Option<u64>) {
    loop {
        tokio::time::sleep(interval.min(LOOK)).await;
        let outcome = compactor.compact_when_due(interval, rate).await;
        metrics.compacted(&outcome);
        // Where it cannot be read, the above has failed too.
        if let Ok(Some(last)) = compactor.last_done().await {
            metrics.compacted_last(last);
        }
        match outcome {
            Ok(None) => {}
            Ok(Some(compacted)) => tracing::info!(
                blobs = compacted.rewritten.count,
                bytes = compacted.rewritten.bytes,
                failed = compacted.failed,
                "copied what was needed of packs of which little is"
            ),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::warn!(error, "a compaction failed; the next one goes on with it");
            }
        }
    }
}

async fn verify(mut verifier: Verifier, metrics: Arc<Metrics>, interval: Duration, rate: Option<u64>) {
    loop {
        tokio::time::sleep(interval.min(LOOK)).await;
        let outcome = verifier.verify_when_due(interval, rate).await;
        metrics.verified(&outcome);
        if let Ok(Some(last)) = verifier.last_done().await {
            metrics.verified_last(last);
        }
        match outcome {
            Ok(None) => {}
            Ok(Some(checked)) => tracing::info!(
                blobs = checked.blobs.count,
                bytes = checked.read,
                findings = checked.findings,
                "verified what is stored"
            ),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::warn!(error, "a verification failed; the next one goes on with it");
            }
        }
    }
}
