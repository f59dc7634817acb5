//! One reconciliation: from what an image is to what it should be, by one step.
//!
//! Nothing is remembered between two of them but the status, so that a controller that is killed goes on where it was,
//! and two of them in a row do no harm.

mod deletion;
mod disk;
mod golden;
mod origin;
mod presence;
mod shared;
mod upload;
mod work;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use serde_json::json;

use super::condition::{self, Reason, Said, Type};
use super::context::{Context, FIELD_MANAGER, patch_parameters};
use super::draft::{Change, Draft};
use super::image::{Image, ImageId, Origin};
use super::library::LibraryError;
use super::provisioner::ProvisionError;
use crate::client::ClientError;
use origin::{Blocked, Resolved};
pub(super) use work::claim_of;
use work::{Stage, became_ready, denied, fill, import, in_registry};

/// How soon a running import is looked at again.
const RUNNING: Duration = Duration::from_secs(1);

/// How soon it is looked again for what an image waits for.
const WAITING: Duration = Duration::from_secs(2);

/// How soon a server that could not be asked is asked again.
const FAR: Duration = Duration::from_secs(15);

/// How soon what was told to end is looked at again.
const ENDING: Duration = Duration::from_millis(200);

/// Why an image will never be ready, unless its spec changes.
const FINAL: [Reason; 4] = [
    Reason::ProvisioningFailedTerminally,
    Reason::WaitForUserUploadTimeout,
    Reason::InvalidSpec,
    Reason::DiskTooSmall,
];

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
    context.census.saw(&id, finished.status.phase.unwrap_or_default());
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
    if is_lost && !I::HEALS {
        return presence::look_for_lost(subject, context, draft).await;
    }
    if is_changed && !is_lost && !begin_anew(subject, context, draft).await? {
        draft.hold();
        return Ok(Some(ENDING));
    }
    let has_failed =
        FINAL.into_iter().any(|reason| condition::has_reason(&draft.status, Type::Ready, reason));
    if has_failed {
        shared::sweep(subject.image, context).await?;
        return Ok(shared::is_ours(subject.image, context).then_some(context.presence_interval));
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
    let made_from = draft.status.made_from.clone();
    let resolved = origin::resolve(&origin, subject.id, subject.image.size(), context, draft).await?;
    if resolved.is_err() {
        draft.status.made_from.clone_from(&made_from);
    } else if made_from != draft.status.made_from {
        shared::let_go(subject.id, made_from.as_ref(), context).await?;
    }
    let resolved = match resolved {
        Ok(resolved) => resolved,
        Err(Blocked { reason, message }) => {
            // Nothing is taken from it, and it need not wait for us.
            draft.status.source_uid = None;
            draft.say(Type::DatasourceReady, Said::no(reason, &message));
            draft.wait(Reason::DatasourceNotReady, message);
            // Somebody else's server is not to be asked each moment.
            let is_far = reason == Reason::SourceUnreachable;
            return Ok(Some(if is_far { FAR } else { WAITING }));
        }
    };
    draft.say(
        Type::DatasourceReady,
        match &resolved {
            Resolved::Awaited { id, .. } => Said::no(Reason::ImageNotReady, format!("{id} is being made")),
            _ => Said::yes(Reason::DatasourceReady),
        },
    );
    make(subject, context, draft, resolved).await
}

/// Ends what was begun for a spec that is no more, and removes what it has made. Tells whether all of it is gone.
async fn begin_anew<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<bool, ReconcileError> {
    if !context.provisioner.cancel(subject.id).await? {
        return Ok(false);
    }
    context.imports.forget(subject.id);
    let is_uploaded = matches!(subject.image.origin(), Ok(Origin::Upload { .. }))
        && draft.status.made_from.is_none()
        && draft.status.source_uid.is_none();
    if is_uploaded && condition::has_reason(&draft.status, Type::Ready, Reason::DiskTooSmall) {
        // What its user has uploaded is good for a larger one.
        draft.advance(Reason::Provisioning, "The size was changed.", 0.0);
        return Ok(true);
    }
    if !discard(subject, context).await? {
        return Ok(false);
    }
    let note = "The spec was changed: the image is made anew.";
    let reason = format!("{}SpecHasBeenChanged", subject.id.kind.as_str());
    context.tell(&subject.reference, EventType::Normal, &reason, note).await;
    // Until it is known whether that is another image now.
    let made_from = draft.status.made_from.take();
    draft.reset();
    draft.status.made_from = made_from;
    Ok(true)
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
            import(subject, context, draft, supply, Stage::first_of(if is_claim { 2 } else { 1 })).await
        }
        Resolved::Upload { checksums } => upload::step(subject, context, draft, checksums).await,
        Resolved::Refused { reason, message } => {
            disk::refuse(subject, context, draft, reason, message).await;
            Ok(None)
        }
        Resolved::Disk(source) => disk::copy(subject, context, draft, &source).await,
        Resolved::Empty => disk::make_empty(subject, context, draft).await,
        Resolved::Awaited { status, .. } => Ok(disk::follow(subject, context, draft, &status).await),
        Resolved::Image { id, status } if is_claim => {
            draft.status.source_uid = Some(id.uid.clone());
            draft.status.digest = context.library.digest(&id).await?;
            (draft.status.size, draft.status.format) = (status.size.clone(), status.format.clone());
            draft.status.cdrom = status.cdrom;
            // An image that had to be made first was half of the way.
            let is_ours = matches!(subject.image.origin(), Ok(Origin::Shared { .. } | Origin::Golden(_)));
            let stage = if is_ours { Stage::first_of(2).next() } else { Stage::first_of(1) };
            fill(subject, context, draft, &id, stage).await
        }
        Resolved::Image { id, status } => {
            let is_there = match context.library.mount(&id, subject.id).await {
                Err(LibraryError::Client(error @ ClientError::Unauthorized { .. })) => {
                    return Ok(Some(denied(subject, context, draft, &error).await));
                }
                mounted => mounted?,
            };
            if !is_there {
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

/// Removes what was made for a spec that is no more. Tells whether it is gone.
async fn discard<I: Image>(subject: &Subject<'_, I>, context: &Context) -> Result<bool, ReconcileError> {
    context.library.remove(subject.id).await?;
    context.uploads.remove(subject.id).await?;
    if subject.id.namespace.is_none() {
        return Ok(true);
    }
    Ok(context.provisioner.remove_claim(subject.id, &claim_of(subject.id)).await?)
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
    I::api(&context.client, id.namespace.as_deref()).patch(&id.name, &patch_parameters(), &patch).await?;
    Ok(())
}
