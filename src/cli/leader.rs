//! [`Leader`]: of several replicas, one works: the one that has the Lease.
//!
//! Ownership is taken and kept by compare-and-swap on the Lease's resourceVersion, as client-go does it. A replica that
//! cannot renew in time stops before the others may begin.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The Lease's name.
const NAME: &str = "dvcr-controller";

/// How the Lease is kept.
#[derive(Debug, Clone)]
pub(super) struct LeaderOptions {
    namespace: String,
    identity: String,
    /// Others may take a Lease that was not renewed for so long.
    duration: Duration,
    /// The owner stops when it could not renew for so long.
    deadline: Duration,
    /// How often it is tried.
    period: Duration,
}

impl LeaderOptions {
    pub(super) fn new(namespace: &str) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "dvcr".to_owned());
        Self {
            namespace: namespace.to_owned(),
            identity: format!("{host}_{}", Uuid::new_v4()),
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            period: Duration::from_secs(2),
        }
    }
}

/// One replica.
pub(super) struct Leader {
    api: Api<Lease>,
    options: LeaderOptions,
}

/// The Lease was lost.
#[derive(Debug)]
pub(super) struct Lost;

impl Leader {
    pub(super) fn new(client: Client, options: LeaderOptions) -> Self {
        Self { api: Api::namespaced(client, &options.namespace), options }
    }

    /// Waits until this replica has the Lease; `None` when it is told to stop before.
    pub(super) async fn elected(&self, stop: &CancellationToken) -> Option<&Self> {
        // Whether another's Lease has run out is judged by our own clock: since when it has looked the same.
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.try_to_take(&mut seen).await {
                Ok(true) => return Some(self),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot take the Lease, and trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(self.options.period) => {}
            }
        }
    }

    async fn try_to_take(&self, seen: &mut Option<(Option<String>, Instant)>) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.spec(0)),
            };
            return conflict_is_no(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        let spec = lease.spec.clone().unwrap_or_default();
        let is_free = spec.holder_identity.as_deref().unwrap_or_default().is_empty();
        let has_run_out = match seen {
            Some((known, since)) if *known == version => since.elapsed() >= self.options.duration,
            _ => {
                *seen = Some((version, Instant::now()));
                false
            }
        };
        if !is_free && !has_run_out {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or_default().saturating_add(1);
        let taken = Lease { spec: Some(self.spec(transitions)), ..lease };
        conflict_is_no(self.api.replace(NAME, &PostParams::default(), &taken).await)
    }

    /// Renews the Lease until it is told to stop, or has lost it.
    pub(super) async fn hold(&self, stop: &CancellationToken) -> Result<(), Lost> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.options.period) => {}
            }
            let left = self.options.deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left.max(Duration::from_millis(1)), self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return Err(Lost),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the Lease"),
                Err(_) => tracing::warn!("the API server does not answer about the Lease"),
            }
            if renewed.elapsed() >= self.options.deadline {
                return Err(Lost);
            }
        }
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let lease = self.api.get(NAME).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(self.options.identity.as_str()) {
            return Ok(false);
        }
        let renewed = LeaseSpec { renew_time: Some(now()), ..spec };
        self.api.replace(NAME, &PostParams::default(), &Lease { spec: Some(renewed), ..lease }).await?;
        Ok(true)
    }

    /// Gives the Lease back, so that another replica need not wait for it to run out.
    pub(super) async fn resign(&self) {
        let give = async {
            let lease = self.api.get(NAME).await?;
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_deref() == Some(self.options.identity.as_str()) {
                let free = LeaseSpec { holder_identity: None, ..spec };
                self.api.replace(NAME, &PostParams::default(), &Lease { spec: Some(free), ..lease }).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Err(error) = give.await {
            tracing::debug!(%error, "the Lease runs out by itself");
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: i32::try_from(self.options.duration.as_secs()).ok(),
            acquire_time: Some(now()),
            renew_time: Some(now()),
            lease_transitions: Some(transitions),
            preferred_holder: None,
            strategy: None,
        }
    }
}

fn now() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}

/// That somebody was faster is an answer, and no failure.
fn conflict_is_no<T>(outcome: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(error)) if error.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
