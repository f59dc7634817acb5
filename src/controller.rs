//! The controller: makes disk images of `VirtualImage` and `ClusterVirtualImage` resources, disks of `VMDisk` resources, and
//! machines of `VMInstance` resources.
//!
//! A name becomes a tag: `vi/<namespace>/<name>:<uid>` or `cvi/<name>:<uid>` in our registry. The reconciler talks to
//! an API server through [`kube::Client`] and to the registry as any client does, and so is the same in a cluster and
//! in `dvcr serve`. What differs is who does the work, a [`Provisioner`].
//!
//! **Conditions are the record.** What an image is stands in its status and nowhere else; the phase follows from it.
//! A controller that is killed goes on from there.

mod backoff;
mod census;
mod condition;
mod context;
#[expect(unreachable_pub, reason = "the derived schemas repeat the types inside of functions")]
pub mod crd;
mod draft;
mod golden;
mod image;
mod imports;
mod in_process;
mod jobs;
mod library;
pub mod machine;
mod nearest;
mod provisioner;
mod quantity;
mod reads;
mod reconcile;
mod uploads;
mod users;
mod web;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::DynamicObject;
use kube::runtime::controller::{Action, Config, Controller, Error};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use census::Census;
pub use context::Context;
pub use golden::{Catalogue, CatalogueError, Golden, GoldenError, GoldenImage, Medium, Refreshed};
pub use image::{Image, ImageId, Kind};
pub use imports::Imports;
pub use in_process::{InProcess, InProcessOptions, volume_path};
pub use jobs::{JobOptions, Jobs};
pub use library::Library;
pub use provisioner::Provisioner;
pub use reads::{Read, reads};
pub use reconcile::ReconcileError;
pub use uploads::Uploads;

use crd::{ClusterVirtualImage, VirtualImage, VmDisk, VmInstance};
use machine::Machines;

/// Images that are reconciled at one time; each is a matter of milliseconds.
const CONCURRENCY: u16 = 16;

/// How soon a reconciliation that failed is tried again.
const AGAIN: Duration = Duration::from_secs(3);

/// How soon one is tried again that somebody else came before.
const CONFLICT: Duration = Duration::from_millis(100);

/// How soon it is looked for new versions of golden images when the controller has started.
const FIRST_LOOK: Duration = Duration::from_mins(10);

/// How long reconciliations that are under way may take when the controller is told to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Reconciles all resources until it is told to stop.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let images = watch(Api::<VirtualImage>::all(context.client.clone()), Arc::clone(&context), stop.clone());
    let cluster =
        watch(Api::<ClusterVirtualImage>::all(context.client.clone()), Arc::clone(&context), stop.clone());
    let disks = async {
        if context.makes_disks {
            let disks = Api::<VmDisk>::all(context.client.clone());
            watch(disks, Arc::clone(&context), stop.clone()).await;
        }
    };
    let machines = async {
        if context.machines != Machines::NotOurs {
            watch_machines(Arc::clone(&context), stop.clone()).await;
        }
    };
    let golden = keep_fresh(&context, stop.clone());
    tokio::join!(images, cluster, disks, machines, golden);
}

/// Looks for new versions of golden images, until it is told to stop.
async fn keep_fresh(context: &Context, stop: CancellationToken) {
    let Some(interval) = context.golden.interval else { return };
    // A controller that is started anew each day looks too.
    let mut wait = interval.min(FIRST_LOOK);
    let refresh = async {
        loop {
            tokio::time::sleep(wait).await;
            wait = interval;
            if let Err(error) = context.golden.refresh_all().await {
                tracing::warn!(%error, "cannot look for new versions of golden images");
            }
        }
    };
    stop.run_until_cancelled(Box::pin(refresh)).await;
}

/// Waits until a controller that was told to stop has ended.
///
/// Not for ever: one that was told so before it had seen a single image would wait for that first. What it was about
/// to do is done by the next one.
pub async fn wait(controller: JoinHandle<()>) {
    let abort = controller.abort_handle();
    if tokio::time::timeout(GRACE, controller).await.is_err() {
        abort.abort();
    }
}

async fn watch<I: Image>(api: Api<I>, context: Arc<Context>, stop: CancellationToken) {
    let news = context.provisioner.news().filter_map(async |image| {
        let named = ObjectRef::new(&image.name);
        (image.kind == I::KIND).then(|| match &image.namespace {
            Some(namespace) => named.within(namespace),
            None => named,
        })
    });
    let controller = Controller::new(api, watcher::Config::default()).reconcile_on(news);
    drive(controller, reconcile::reconcile::<I>, |image: &I| image.id().to_string(), context, stop).await;
}

async fn watch_machines(context: Arc<Context>, stop: CancellationToken) {
    let instances = Api::<VmInstance>::all(context.client.clone());
    let mut controller = Controller::new(instances, watcher::Config::default());
    // A cluster without KubeVirt is not asked again and again for machines: one that gets it later tells of them at each look.
    let is_cluster = matches!(context.machines, Machines::KubeVirt { .. });
    if is_cluster && machine::has_kubevirt(&context.client).await {
        let resource = machine::virtual_machine();
        let machines = Api::<DynamicObject>::all_with(context.client.clone(), &resource);
        controller = controller.owns_with(machines, resource, watcher::Config::default());
    }
    let name = |instance: &VmInstance| format!("VMInstance {}", ObjectRef::from_obj(instance));
    drive(controller, machine::reconcile, name, context, stop).await;
}

/// Has a controller reconcile its resources until it is told to stop; `name` is what one is called in the log.
async fn drive<K, R>(
    controller: Controller<K>,
    reconcile: impl FnMut(Arc<K>, Arc<Context>) -> R,
    name: impl Fn(&K) -> String,
    context: Arc<Context>,
    stop: CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    R: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, |object, error, _| failed(&name(&object), error), context)
        .for_each(async |outcome| {
            // Failed reconciliations are logged where they are judged; this is the watch itself.
            if let Err(Error::QueueError(error)) = outcome {
                tracing::warn!(%error, "the watch was interrupted, and is begun again");
            }
        })
        .await;
}

fn failed(resource: &str, error: &ReconcileError) -> Action {
    match error {
        ReconcileError::Kube(kube::Error::Api(status)) if status.code == 409 => Action::requeue(CONFLICT),
        ReconcileError::Kube(kube::Error::Api(status)) if status.code == 404 => Action::await_change(),
        _ => {
            tracing::warn!(resource, %error, "cannot reconcile, and trying again");
            Action::requeue(AGAIN)
        }
    }
}
