//! A Kubernetes-style API server within this process, for those who have no cluster.
//!
//! Custom resources are kept in a file and served over HTTP as kube-apiserver does it, for the stock kubectl and for
//! `kube`. Besides them there are namespaces, secrets and events, which these clients need.
//!
//! - `router.rs` and `route.rs` are the table of contents: every path and verb.
//! - `strategy.rs` is what happens to an object on its way into the store, whichever verb has brought it.
//! - `store.rs` keeps the objects: what is answered is on the disk.
//! - `upkeep.rs` does what a cluster's controllers would.
//!
//! What objects mean (schemas, patches, field owners, selectors, tables) is in [`crate::apimachinery`], without HTTP.
//!
//! # Known quirks
//!
//! - There is one version of each kind, and no conversion, except that events have two names.
//! - Owners that are deleted in the foreground are deleted in the background: at once, and their dependents next.
//! - There is no authentication here: whoever is let through to it may do everything, but for what an [`Admission`] refuses. Bodies that browsers send without asking
//!   are refused.

mod admission;
mod body;
mod builtin;
mod cause;
mod clock;
mod decode;
mod delete;
mod discovery;
mod generate;
mod incoming;
mod list;
mod metadata;
mod names;
mod negotiate;
mod openapi;
mod patch;
mod protobuf;
mod query;
mod render;
mod resource;
mod route;
mod router;
mod scheme;
mod status;
mod store;
mod strategy;
mod upkeep;
mod watch;
mod write;
mod yaml;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use scheme::Scheme;
use store::{Store, StoreOptions, WindowSize};
use upkeep::Housekeeping;

pub use admission::Admission;
pub use clock::Clock;
pub use resource::{Resource, ResourceError};
pub use store::OpenError as StoreError;

/// How often old events are forgotten and dependents without owners are looked for.
const UPKEEP: Duration = Duration::from_secs(10);

/// An API server. Clones are the same one.
#[derive(Debug, Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    scheme: Arc<Scheme>,
    store: Store,
    clock: Clock,
    admission: Option<Arc<dyn Admission>>,
    stop: tokio::sync::watch::Sender<bool>,
}

/// What can be set.
#[derive(Debug, Clone, Default)]
pub struct ApiServerOptions {
    /// Where the time comes from.
    pub clock: Clock,
    /// How many changes watchers can be behind.
    pub window: Option<usize>,
    /// Who may have which objects; none: whoever may write them.
    pub admission: Option<Arc<dyn Admission>>,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The objects cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A built-in definition is wrong: a bug.
    #[error("a built-in resource")]
    Resource(#[from] ResourceError),
}

impl ApiServer {
    /// Opens or creates the database file, which one process at a time can do. Namespaces, secrets and events are
    /// served besides `resources`.
    pub fn open(database: &Path, resources: Vec<Resource>) -> Result<Self, OpenError> {
        Self::open_with(database, resources, ApiServerOptions::default())
    }

    /// As [`ApiServer::open`], with options.
    pub fn open_with(
        database: &Path,
        resources: Vec<Resource>,
        options: ApiServerOptions,
    ) -> Result<Self, OpenError> {
        let ApiServerOptions { clock, window, admission } = options;
        let scheme = Arc::new(Scheme::new(Resource::built_in()?.into_iter().chain(resources)));
        let upkeep = Box::new(Housekeeping { scheme: Arc::clone(&scheme), clock: clock.clone() });
        let mut size = WindowSize::default();
        size.changes = window.unwrap_or(size.changes);
        let store = Store::open(database, StoreOptions { window: size, upkeep, upkeep_interval: UPKEEP })?;
        let stop = tokio::sync::watch::Sender::new(false);
        Ok(Self { inner: Arc::new(Inner { scheme, store, clock, admission, stop }) })
    }

    /// The HTTP interface: `/api`, `/apis`, `/openapi` and `/version`.
    pub fn router(&self) -> Router {
        router::router(self.clone())
    }

    /// Ends all watches, which would otherwise go on for as long as their clients wish.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }
}
