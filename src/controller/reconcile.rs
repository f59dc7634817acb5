//! One reconciliation: from what an image is to what it should be, by one step.
//!
//! Nothing is remembered between two of them but the status, so that a controller that is killed goes on where it was,
//! and two of them in a row do no harm.

mod deletion;
mod origin;
mod presence;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use serde_json::json;

use super::condition::{self, Reason, Said, Type};
use super::context::{Context, FIELD_MANAGER};
use super::crd::Target;
use super::draft::{Change, Draft};
use super::image::{Image, ImageId, Kind, Origin};
use super::library::LibraryError;
use super::provisioner::{Claim, Order, ProvisionError, Report, Supply, Task};
use super::quantity;
use crate::client::ClientError;
use origin::{Blocked, Resolved};

/// How soon a running import is looked at again.
const RUNNING: Duration = Duration::from_secs(1);

/// How soon it is looked again for what an image waits for.
const WAITING: Duration = Duration::from_secs(2);

/// How soon what was told to end is looked at again.
const ENDING: Duration = Duration::from_millis(200);

/// A reconciliation failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// The work.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The registry.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The registry, about an upload.
    #[error("the registry: {0}")]
    Client(#[from] ClientError),
}

/// What is reconciled.
struct Subject<'a, I> {
    image: &'a I,
    id: &'a ImageId,
    /// For events.
    reference: ObjectReference,
}

/// Takes one image one step further.
pub(super) async fn reconcile<I: Image>(
    image: Arc<I>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let id = image.id();
    let subject = Subject { image: image.as_ref(), id: &id, reference: image.object_ref(&()) };
    let is_deleted = image.meta().deletion_timestamp.is_some();
    if !is_deleted && !has_finalizer(image.as_ref()) {
        add_finalizer(image.as_ref(), &id, &context).await?;
        return Ok(Action::await_change());
    }
    if is_deleted && !has_finalizer(image.as_ref()) {
        context.forget(&id);
        return Ok(Action::await_change());
    }
    let mut draft = Draft::new(image.status().cloned().unwrap_or_default(), image.meta().generation);
    let wait = if is_deleted {
        let wait = deletion::step(&subject, &context, &mut draft).await?;
        if wait.is_none() {
            remove_finalizer(image.as_ref(), &id, &context).await?;
            context.forget(&id);
            return Ok(Action::await_change());
        }
        wait
    } else {
        step(&subject, &context, &mut draft).await?
    };
    let finished = draft.finish(is_deleted);
    if finished.change == Change::Progress
        && let Some(pace) = context.wait_for_pace(&id)
    {
        return Ok(Action::requeue(pace));
    }
    if finished.change != Change::None {
        let mut written = image.as_ref().clone();
        written.set_status(finished.status);
        written.meta_mut().managed_fields = None;
        let api = I::api(&context.client, id.namespace.as_deref());
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        api.replace_status(&id.name, &parameters, &written).await?;
        context.wrote(&id);
    }
    Ok(wait.map_or_else(Action::await_change, Action::requeue))
}

/// One step of an image that is to be there. Tells when to look again, if not at the next change.
async fn step<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Option<Duration>, ReconcileError> {
    let status = &draft.status;
    if condition::holds(status, Type::Ready) {
        return presence::step(subject, context, draft).await;
    }
    let is_lost = condition::has_reason(status, Type::Ready, Reason::ImageLost)
        || condition::has_reason(status, Type::Ready, Reason::PvcLost);
    let is_changed =
        status.observed_generation.is_some() && status.observed_generation != subject.image.meta().generation;
    if is_changed && !is_lost {
        if !context.provisioner.cancel(subject.id).await? {
            draft.hold();
            return Ok(Some(ENDING));
        }
        discard(subject, context).await?;
        let note = "The spec was changed: the image is made anew.";
        let reason = match subject.id.kind {
            Kind::VirtualImage => "VirtualImageSpecHasBeenChanged",
            Kind::ClusterVirtualImage => "ClusterVirtualImageSpecHasBeenChanged",
        };
        context.tell(&subject.reference, EventType::Normal, reason, note).await;
        draft.reset();
    }
    let has_failed =
        [Reason::ProvisioningFailedTerminally, Reason::WaitForUserUploadTimeout, Reason::InvalidSpec]
            .into_iter()
            .any(|reason| condition::has_reason(&draft.status, Type::Ready, reason));
    if has_failed {
        return Ok(None);
    }
    let origin = match subject.image.origin() {
        Ok(origin) => origin,
        Err(message) => {
            draft.fail(Reason::InvalidSpec, format!("{message}. Correct the spec."));
            return Ok(None);
        }
    };
    if !find_storage_class(subject, context, draft).await? {
        return Ok(Some(WAITING));
    }
    let resolved = match origin::resolve(&origin, context).await? {
        Ok(resolved) => resolved,
        Err(Blocked { reason, message }) => {
            draft.say(Type::DatasourceReady, Said::no(reason, &message));
            draft.wait(Reason::DatasourceNotReady, message);
            return Ok(Some(WAITING));
        }
    };
    draft.say(Type::DatasourceReady, Said::yes(Reason::DatasourceReady));
    make(subject, context, draft, resolved).await
}

/// Sees to the storage class of an image that is kept in a claim. Tells whether there is nothing to wait for.
async fn find_storage_class<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<bool, ReconcileError> {
    if !subject.image.storage().is_claim() {
        condition::remove(&mut draft.status, Type::StorageClassReady);
        draft.status.storage_class_name = None;
        return Ok(true);
    }
    match context.provisioner.storage_class(subject.image.storage_class()).await? {
        Ok(name) => {
            draft.say(Type::StorageClassReady, Said::yes(Reason::StorageClassReady));
            draft.status.storage_class_name = Some(name);
            Ok(true)
        }
        Err(message) => {
            draft.say(Type::StorageClassReady, Said::no(Reason::StorageClassNotFound, &message));
            draft.wait(Reason::StorageClassNotReady, message);
            Ok(false)
        }
    }
}

/// Makes the image, by one step.
async fn make<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    resolved: Resolved,
) -> Result<Option<Duration>, ReconcileError> {
    let is_claim = subject.image.storage().is_claim();
    match resolved {
        Resolved::Supply(supply, uid) => {
            draft.status.source_uid = uid;
            import(subject, context, draft, supply).await
        }
        Resolved::Upload { checksums } => upload::step(subject, context, draft, checksums).await,
        Resolved::Image { id, status } if is_claim => {
            draft.status.source_uid = Some(id.uid.clone());
            (draft.status.size, draft.status.format) = (status.size.clone(), status.format.clone());
            draft.status.cdrom = status.cdrom;
            fill(subject, context, draft, &id).await
        }
        Resolved::Image { id, status } => {
            if !context.library.mount(&id, subject.id).await? {
                let message = format!("the image of {id} is not in the registry");
                draft.say(Type::DatasourceReady, Said::no(Reason::ImageNotReady, &message));
                draft.wait(Reason::DatasourceNotReady, message);
                return Ok(Some(WAITING));
            }
            draft.status.source_uid = Some(id.uid.clone());
            (draft.status.size, draft.status.format) = (status.size, status.format);
            draft.status.cdrom = status.cdrom;
            let target = in_registry(subject.id, context)?;
            became_ready(subject, context, draft, target).await;
            Ok(Some(RUNNING))
        }
    }
}

/// Where an image in the registry is.
fn in_registry(id: &ImageId, context: &Context) -> Result<Target, LibraryError> {
    Ok(Target { registry_url: Some(context.library.url(id)?), persistent_volume_claim_name: None })
}

/// The claim of an image that is kept in one.
fn claim_of(id: &ImageId) -> Claim {
    let short = id.uid.split('-').next().unwrap_or_default();
    // 253 characters are what the name of a claim may have.
    let name: String = id.name.chars().take(230).collect();
    Claim {
        namespace: id.namespace.clone().unwrap_or_default(),
        name: format!("vi-{}-{short}", name.trim_end_matches(['-', '.'])),
    }
}

/// Brings the disk into the registry, and from there into a claim if it is to be in one.
async fn import<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    supply: Supply,
) -> Result<Option<Duration>, ReconcileError> {
    let is_claim = subject.image.storage().is_claim();
    let is_imported = is_claim && draft.status.size.is_some() && context.library.has(subject.id).await?;
    if is_imported {
        return fill(subject, context, draft, subject.id).await;
    }
    let order = Order {
        image: subject.id.clone(),
        generation: subject.image.meta().generation.unwrap_or_default(),
        task: Task::Import { supply, target: context.library.image(subject.id)? },
    };
    if draft.status.target.is_none() && !is_claim {
        draft.status.target = Some(in_registry(subject.id, context)?);
    }
    let share = if is_claim { 0.5 } else { 1.0 };
    match context.provisioner.observe(&order).await? {
        Report::Queued(message) => {
            draft.advance(lost_or(draft, Reason::Provisioning), message, 0.0);
            Ok(Some(RUNNING))
        }
        Report::Running(meter) => {
            let message = "The image is being fetched from its source.";
            draft.advance(
                lost_or(draft, Reason::Provisioning),
                message,
                meter.fraction.unwrap_or(0.0) * share,
            );
            draft.speed(meter);
            Ok(Some(RUNNING))
        }
        Report::Retrying { error, attempt, wait } => {
            retrying(subject, context, draft, &error, attempt, wait).await;
            Ok(Some(wait.clamp(RUNNING, Duration::from_secs(30))))
        }
        Report::Refused(error) => {
            refused(subject, context, draft, error).await;
            Ok(None)
        }
        Report::Imported(imported) => {
            draft.imported(&imported);
            if is_claim {
                return fill(subject, context, draft, subject.id).await;
            }
            let target = in_registry(subject.id, context)?;
            became_ready(subject, context, draft, target).await;
            // The next look is the first check of its presence, which also lets go of the work.
            Ok(Some(RUNNING))
        }
        Report::Filled => Err(ProvisionError::Broken("an import has filled a claim".to_owned()).into()),
    }
}

/// Writes the disk of an image in the registry into the claim of this one.
async fn fill<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    from: &ImageId,
) -> Result<Option<Duration>, ReconcileError> {
    let claim = claim_of(subject.id);
    let size = draft.status.size.as_ref().and_then(|size| size.unpacked_bytes.parse().ok()).unwrap_or(0);
    let order = Order {
        image: subject.id.clone(),
        generation: subject.image.meta().generation.unwrap_or_default(),
        task: Task::Fill {
            image: context.library.image(from)?,
            claim: claim.clone(),
            storage_class: draft.status.storage_class_name.clone(),
            size,
        },
    };
    draft.status.target =
        Some(Target { registry_url: None, persistent_volume_claim_name: Some(claim.name.clone()) });
    let (already, share) = if from == subject.id { (0.5, 0.5) } else { (0.0, 1.0) };
    match context.provisioner.observe(&order).await? {
        Report::Queued(message) => {
            draft.advance(lost_or(draft, Reason::Provisioning), message, already);
            Ok(Some(RUNNING))
        }
        Report::Running(meter) => {
            let message = "The image is being written to its persistent volume claim.";
            let part = already + meter.fraction.unwrap_or(0.0) * share;
            draft.advance(lost_or(draft, Reason::Provisioning), message, part);
            Ok(Some(RUNNING))
        }
        Report::Retrying { error, attempt, wait } => {
            retrying(subject, context, draft, &error, attempt, wait).await;
            Ok(Some(wait.clamp(RUNNING, Duration::from_secs(30))))
        }
        Report::Refused(error) => {
            refused(subject, context, draft, error).await;
            Ok(None)
        }
        Report::Filled => {
            // What lies in the claim is the disk that the machine sees.
            if draft.status.cdrom != Some(true) {
                draft.status.format = Some("raw".to_owned());
            }
            let target = Target { registry_url: None, persistent_volume_claim_name: Some(claim.name) };
            became_ready(subject, context, draft, target).await;
            Ok(Some(RUNNING))
        }
        Report::Imported(_) => {
            Err(ProvisionError::Broken("a claim was filled by an import".to_owned()).into())
        }
    }
}

/// An image that was lost stays so until it is there again: its spec cannot be changed any more.
fn lost_or(draft: &Draft, reason: Reason) -> Reason {
    [Reason::ImageLost, Reason::PvcLost]
        .into_iter()
        .find(|lost| condition::has_reason(&draft.status, Type::Ready, *lost))
        .unwrap_or(reason)
}

async fn became_ready<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    target: Target,
) {
    let was_lost = lost_or(draft, Reason::Ready) != Reason::Ready;
    draft.ready(target);
    let stored = draft.status.size.as_ref().map_or("", |size| size.stored.as_str());
    let format = draft.status.format.as_deref().unwrap_or_default();
    let (reason, note) = if was_lost {
        let reason = match subject.id.kind {
            Kind::VirtualImage => "VirtualImageLostRecovered",
            Kind::ClusterVirtualImage => "ClusterVirtualImageLostRecovered",
        };
        (reason, format!("The image that was lost is there again: {format}, {stored}."))
    } else {
        ("DataSourceSyncCompleted", format!("The image is ready: {format}, {stored}."))
    };
    context.tell(&subject.reference, EventType::Normal, reason, note).await;
}

async fn retrying<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    error: &str,
    attempt: u32,
    wait: Duration,
) {
    let is_news = !condition::find(&draft.status, Type::Ready)
        .is_some_and(|condition| condition.message.starts_with(&format!("Try {attempt} ")));
    let reason = lost_or(draft, Reason::ProvisioningFailed);
    let message = format!("Try {attempt} failed, and the next one is in {} s: {error}", wait.as_secs());
    draft.advance(reason, message, draft.status.progress.as_deref().map_or(0.0, quantity::fraction));
    draft.status.download_speed = None;
    if is_news {
        let note = format!("Try {attempt} failed: {error}");
        context.tell(&subject.reference, EventType::Warning, "DataSourceSyncFailed", note).await;
    }
}

async fn refused<I: Image>(subject: &Subject<'_, I>, context: &Context, draft: &mut Draft, error: String) {
    context.tell(&subject.reference, EventType::Warning, "DataSourceSyncFailed", error.clone()).await;
    let message =
        format!("{error}. Correct the source, and change or recreate the {}.", subject.id.kind.as_str());
    draft.fail(Reason::ProvisioningFailedTerminally, message);
}

/// Removes what was made for a spec that is no more.
async fn discard<I: Image>(subject: &Subject<'_, I>, context: &Context) -> Result<(), ReconcileError> {
    context.library.remove(subject.id).await?;
    context.uploads.remove(subject.id).await?;
    if subject.id.namespace.is_some() {
        context.provisioner.remove_claim(&claim_of(subject.id)).await?;
    }
    Ok(())
}

/// Removes a file that was uploaded and is an image by now, and takes no other one.
async fn close_upload<I: Image>(subject: &Subject<'_, I>, context: &Context) -> Result<(), ReconcileError> {
    if matches!(subject.image.origin(), Ok(Origin::Upload { .. })) {
        context.uploads.close(subject.id).await?;
    }
    Ok(())
}

fn has_finalizer<I: Image>(image: &I) -> bool {
    image.meta().finalizers.iter().flatten().any(|finalizer| finalizer == I::CLEANUP)
}

async fn add_finalizer<I: Image>(image: &I, id: &ImageId, context: &Context) -> Result<(), kube::Error> {
    let finalizers = image.meta().finalizers.iter().flatten().map(String::as_str).chain([I::CLEANUP]);
    write_finalizers(image, id, context, finalizers.collect()).await
}

async fn remove_finalizer<I: Image>(image: &I, id: &ImageId, context: &Context) -> Result<(), kube::Error> {
    let others = image.meta().finalizers.iter().flatten().map(String::as_str).filter(|f| *f != I::CLEANUP);
    match write_finalizers(image, id, context, others.collect()).await {
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(()),
        outcome => outcome,
    }
}

async fn write_finalizers<I: Image>(
    image: &I,
    id: &ImageId,
    context: &Context,
    finalizers: Vec<&str>,
) -> Result<(), kube::Error> {
    let metadata = json!({
        "uid": id.uid,
        "resourceVersion": image.meta().resource_version,
        "finalizers": finalizers,
    });
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    I::api(&context.client, id.namespace.as_deref()).patch(&id.name, &parameters, &patch).await?;
    Ok(())
}
