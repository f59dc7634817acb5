//! [`Context`]: what every reconciliation needs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::PatchParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::Semaphore;

use super::census::Census;
use super::golden::Golden;
use super::image::ImageId;
use super::imports::Imports;
use super::library::Library;
use super::machine::Machines;
use super::provisioner::Provisioner;
use super::uploads::Uploads;

/// The name under which the controller writes.
pub(super) const FIELD_MANAGER: &str = "dvcr-controller";

/// A patch under that name.
pub(super) fn patch_parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// What every reconciliation needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Who does the work.
    pub provisioner: Arc<dyn Provisioner>,
    /// The images in our registry.
    pub library: Library,
    /// Where users upload images.
    pub uploads: Uploads,
    /// Where images are that disks of several namespaces share.
    pub shared_namespace: String,
    /// Golden images.
    pub golden: Golden,
    /// How often it is checked that an image that is ready is still there.
    pub presence_interval: Duration,
    /// Whether `VMDisk` resources are ours.
    pub makes_disks: bool,
    /// Who runs machines.
    pub machines: Machines,
    /// How many images are in which phase.
    pub census: Arc<Census>,
    /// How imports end, and whether those that go on move.
    pub imports: Arc<Imports>,
    /// Who may ask somebody else's server now: one that does not answer must not keep all reconciliations waiting.
    pub(super) asking: Semaphore,
    recorder: Recorder,
    pace: Mutex<HashMap<ImageId, Instant>>,
}

/// How many reconciliations may ask somebody else's server at one time, of those that there are.
const ASKING: usize = 8;

/// How often at most a status is written for no other reason than progress.
const PACE: Duration = Duration::from_millis(900);

impl Context {
    /// The context of one controller.
    #[must_use]
    pub fn new(
        client: Client,
        provisioner: Arc<dyn Provisioner>,
        library: Library,
        uploads: Uploads,
        shared_namespace: String,
        golden: Golden,
        presence_interval: Duration,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter::from(FIELD_MANAGER));
        Self {
            client,
            provisioner,
            library,
            uploads,
            shared_namespace,
            golden,
            presence_interval,
            makes_disks: true,
            machines: Machines::Command,
            census: Arc::default(),
            imports: Arc::default(),
            asking: Semaphore::new(ASKING),
            recorder,
            pace: Mutex::default(),
        }
    }

    /// How long to wait before an image's progress may be written again; nothing, if it may be now.
    pub(super) fn wait_for_pace(&self, image: &ImageId) -> Option<Duration> {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let since = pace.get(image)?.elapsed();
        PACE.checked_sub(since).filter(|wait| !wait.is_zero())
    }

    /// An image's status was written.
    pub(super) fn wrote(&self, image: &ImageId) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).insert(image.clone(), Instant::now());
    }

    /// An image is gone.
    pub(super) fn forget(&self, image: &ImageId) {
        self.census.forget(image);
        self.imports.forget(image);
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
    }

    /// Tells the users of an image what happened. That an event cannot be written stops nothing.
    pub(super) async fn tell(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        note: impl Into<String>,
    ) {
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note.into()),
            action: reason.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(reason, %error, "cannot write an event");
        }
    }
}
