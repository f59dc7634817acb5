//! The distribution specification over HTTP, and what stands beside it: disks without their images, and uploads of files.
//!
//! `router.rs` is the table of contents: every endpoint on one page, with its number in the spec. A handler
//! parses what the client sent into the types of [`oci`](crate::oci), calls the engine, and says the
//! answer in headers. Only `error.rs` knows which status and code a failure has, and only `access.rs` what each request needs;
//! `guard.rs` asks who sends it before any handler sees it, and `admission.rs` whether they may send one more.
//!
//! # Known quirks
//!
//! - Blobs and manifests are never compressed on the way, whatever `Accept-Encoding` says (containerd sends one):
//!   it would break `Content-Length`, ranges and digests.
//! - `Accept` is ignored: a manifest is served as it was pushed. A client that does not understand it
//!   can only be told by its type.
//! - An empty upload reports `Range: 0-0`, as one with one byte does. Docker needs a range it can parse,
//!   and everyone else has copied that.
//! - Several ranges in one request are answered with the whole blob, which HTTP allows.

mod access;
mod access_log;
mod admission;
mod asker;
mod audit;
mod blobs;
mod body;
mod chunks;
mod collect;
mod content;
mod delta;
mod disks;
mod error;
mod guard;
mod health;
mod image_uploads;
mod limits;
mod manifests;
mod ndjson;
mod notices;
mod observation;
mod origin;
mod query;
mod range;
mod referrers;
mod request_id;
mod rewrite;
mod route;
mod router;
mod server;
mod stats;
mod tags;
mod tls;
mod token;
mod unread;
mod uploads;
mod verify;
mod work;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authority;
use crate::bare_disk::BareDisks;
use crate::metrics::Metrics;
use crate::registry::{Registry, Staging};
use crate::upload_token::UploadKey;

pub use limits::RequestLimits;
pub use observation::{exposition, observation, only_metrics};
pub use router::router;
pub use server::{Server, ServerOptions};
pub use tls::{Tls, TlsError, TlsOptions};

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Api {
    registry: Arc<Registry>,
    disks: Arc<BareDisks>,
    settings: Settings,
    limits: Arc<limits::Limits>,
    /// Held by whoever counts what there is.
    counting: Arc<Mutex<()>>,
    /// Held while blobs are stored in another way.
    rewriting: Arc<Mutex<()>>,
    /// Held while what is stored is verified.
    verifying: Arc<Mutex<()>>,
    metrics: Arc<Metrics>,
    readiness: Arc<health::Readiness>,
    /// The server is to stop: what takes long ends soon.
    stopping: CancellationToken,
    /// Requests that change something run here, apart from their connections: a client that goes away does not
    /// stop them half-way.
    tasks: TaskTracker,
    /// Files that people upload for images, if this registry takes them.
    image_uploads: Option<Arc<image_uploads::ImageUploads>>,
    /// Who says who may do what; none: whoever can connect may do everything.
    authority: Option<Arc<Authority>>,
}

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a client may be silent in the middle of a body.
    pub idle_timeout: Duration,
    /// The largest manifest in bytes. The spec asks for 4 MB at least.
    pub max_manifest: usize,
    /// Proxies that are believed when they say on whose behalf they ask.
    pub trusted_proxies: Vec<IpNet>,
    /// How many requests a client may send.
    pub limits: RequestLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_mins(1),
            max_manifest: 4 << 20,
            trusted_proxies: Vec::new(),
            limits: RequestLimits::default(),
        }
    }
}

impl Api {
    /// The API of `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, settings: Settings) -> Self {
        let disks = Arc::new(BareDisks::new(Arc::clone(&registry)));
        let limits = Arc::new(limits::Limits::new(settings.limits));
        Self {
            registry,
            disks,
            settings,
            limits,
            counting: Arc::default(),
            rewriting: Arc::default(),
            verifying: Arc::default(),
            metrics: Arc::default(),
            readiness: Arc::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            image_uploads: None,
            authority: None,
        }
    }

    /// The same API, which counts in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<Metrics>) -> Self {
        metrics.with_registry(&self.registry);
        Self { metrics, ..self }
    }

    /// The same API, which also takes files at `/upload/<token>` with tokens of `key`.
    #[must_use]
    pub fn with_image_uploads(self, key: UploadKey) -> Self {
        let staging = Staging::new(Arc::clone(&self.registry));
        Self { image_uploads: Some(Arc::new(image_uploads::ImageUploads { staging, key })), ..self }
    }

    /// The same API for those alone whom `authority` lets in.
    #[must_use]
    pub fn with_authority(self, authority: Arc<Authority>) -> Self {
        Self { authority: Some(authority), ..self }
    }

    /// Ends what would take long, before requests in flight are waited for.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Waits for requests that are still changing something.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
