//! The work that an image takes: its disk is brought into the registry, and from there into a claim if it is to be in
//! one.

use std::time::Duration;

use kube::runtime::events::EventType;

use super::{RUNNING, ReconcileError, Subject, disk};
use crate::client::ClientError;
use crate::controller::condition::{self, Reason, Type};
use crate::controller::context::Context;
use crate::controller::crd::Target;
use crate::controller::draft::Draft;
use crate::controller::image::{Image, ImageId, Kind};
use crate::controller::library::LibraryError;
use crate::controller::provisioner::{Claim, Content, Imported, Order, ProvisionError, Report, Supply, Task};
use crate::controller::quantity;

/// The longest time in which a try that failed is not looked at.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// One of the stages that an image goes through, which all count alike for its progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage {
    number: u8,
    of: u8,
}

impl Stage {
    /// The first of so many.
    pub(super) fn first_of(of: u8) -> Self {
        Self { number: 0, of }
    }

    pub(super) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// How much of everything is done when this fraction of the stage is.
    pub(super) fn part(self, fraction: f64) -> f64 {
        (f64::from(self.number) + fraction) / f64::from(self.of)
    }
}

/// How far an order is.
enum Outcome {
    /// Not done; when to look again.
    Undone(Option<Duration>),
    Imported(Imported),
    Filled,
}

/// Where an image in the registry is.
pub(super) fn in_registry(id: &ImageId, context: &Context) -> Result<Target, LibraryError> {
    Ok(Target { registry_url: Some(context.library.url(id)?), persistent_volume_claim_name: None })
}

/// The claim of an image that is kept in one.
pub(in crate::controller) fn claim_of(id: &ImageId) -> Claim {
    let namespace = id.namespace.clone().unwrap_or_default();
    if id.kind == Kind::VmDisk {
        // What Cozystack calls it, and machines that were made for it.
        return Claim { namespace, name: format!("vm-disk-{}", id.name) };
    }
    let short = id.uid.split('-').next().unwrap_or_default();
    // 253 characters are what the name of a claim may have.
    let name: String = id.name.chars().take(230).collect();
    Claim { namespace, name: format!("vi-{}-{short}", name.trim_end_matches(['-', '.'])) }
}

/// Brings the disk into the registry, and from there into a claim if it is to be in one.
pub(super) async fn import<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    supply: Supply,
    stage: Stage,
) -> Result<Option<Duration>, ReconcileError> {
    let is_claim = subject.image.storage().is_claim();
    let is_imported = is_claim && draft.status.size.is_some() && context.library.has(subject.id).await?;
    if is_imported {
        return fill(subject, context, draft, subject.id, stage.next()).await;
    }
    if draft.status.target.is_none() && !is_claim {
        draft.status.target = Some(in_registry(subject.id, context)?);
    }
    let task = Task::Import { supply, target: context.library.image(subject.id)? };
    let message = "The image is being fetched from its source.";
    match carry_out(subject, context, draft, task, stage, message).await? {
        Outcome::Undone(wait) => Ok(wait),
        Outcome::Imported(imported) => {
            draft.imported(&imported);
            draft.status.digest = context.library.digest(subject.id).await?;
            if is_claim {
                return fill(subject, context, draft, subject.id, stage.next()).await;
            }
            let target = in_registry(subject.id, context)?;
            became_ready(subject, context, draft, target).await;
            // The next look is the first check of its presence, which also lets go of the work.
            Ok(Some(RUNNING))
        }
        Outcome::Filled => Err(ProvisionError::Broken("an import has filled a claim".to_owned()).into()),
    }
}

/// Writes the disk of an image in the registry into the claim of this one.
pub(super) async fn fill<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    from: &ImageId,
    stage: Stage,
) -> Result<Option<Duration>, ReconcileError> {
    if !disk::fits(subject, context, draft).await {
        return Ok(None);
    }
    let image = context.library.image(from)?;
    fill_with(subject, context, draft, Content::Image(image), stage).await
}

/// The same, with whatever it is.
pub(super) async fn fill_with<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    from: Content,
    stage: Stage,
) -> Result<Option<Duration>, ReconcileError> {
    let claim = claim_of(subject.id);
    let of_image = disk::virtual_size(&draft.status);
    let size = subject.image.size().map_or(of_image, |asked| asked.max(of_image));
    let target = Target { registry_url: None, persistent_volume_claim_name: Some(claim.name.clone()) };
    draft.status.target = Some(target.clone());
    let storage_class = draft.status.storage_class_name.clone();
    let task = Task::Fill { from, claim, storage_class, size };
    let message = "The disk is being written to its persistent volume claim.";
    match carry_out(subject, context, draft, task, stage, message).await? {
        Outcome::Undone(wait) => Ok(wait),
        Outcome::Filled => {
            // What lies in the claim is the disk that the machine sees.
            if draft.status.cdrom != Some(true) {
                draft.status.format = Some("raw".to_owned());
            }
            if subject.image.size().is_some() {
                draft.status.capacity = Some(quantity::exact(size));
            }
            became_ready(subject, context, draft, target).await;
            Ok(Some(RUNNING))
        }
        Outcome::Imported(_) => {
            Err(ProvisionError::Broken("a claim was filled by an import".to_owned()).into())
        }
    }
}

/// Has a task done, and says in the status how far it is.
async fn carry_out<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    task: Task,
    stage: Stage,
    message: &str,
) -> Result<Outcome, ReconcileError> {
    let is_import = matches!(task, Task::Import { .. });
    let generation = subject.image.meta().generation.unwrap_or_default();
    let order = Order { image: subject.id.clone(), generation, task };
    let report = context.provisioner.observe(&order).await?;
    context.imports.heard(&order, &report);
    Ok(match report {
        Report::Queued(message) => {
            draft.advance(lost_or(draft, Reason::Provisioning), message, stage.part(0.0));
            Outcome::Undone(Some(RUNNING))
        }
        Report::Running(meter) => {
            let meter = meter.unwrap_or_default();
            let part = stage.part(meter.fraction.unwrap_or(0.0));
            draft.advance(lost_or(draft, Reason::Provisioning), message, part);
            if is_import {
                draft.speed(meter);
            }
            Outcome::Undone(Some(RUNNING))
        }
        Report::Retrying { failure, attempt, wait } => {
            retrying(subject, context, draft, &failure.error, attempt, wait).await;
            Outcome::Undone(Some(wait.clamp(RUNNING, LONGEST_REST)))
        }
        Report::Refused(failure) => {
            refused(subject, context, draft, failure.error).await;
            Outcome::Undone(None)
        }
        Report::Imported(imported) => Outcome::Imported(imported),
        Report::Filled => Outcome::Filled,
    })
}

/// An image that was lost stays so until it is there again: its spec cannot be changed any more.
pub(super) fn lost_or(draft: &Draft, reason: Reason) -> Reason {
    [Reason::ImageLost, Reason::PvcLost]
        .into_iter()
        .find(|lost| condition::has_reason(&draft.status, Type::Ready, *lost))
        .unwrap_or(reason)
}

pub(super) async fn became_ready<I: Image>(
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
        let reason = format!("{}LostRecovered", subject.id.kind.as_str());
        (reason, format!("The image that was lost is there again: {format}, {stored}."))
    } else {
        let what = if subject.id.kind == Kind::VmDisk { "disk" } else { "image" };
        ("DataSourceSyncCompleted".to_owned(), format!("The {what} is ready: {format}, {stored}."))
    };
    context.tell(&subject.reference, EventType::Normal, &reason, note).await;
}

async fn retrying<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    error: &str,
    attempt: u32,
    wait: Duration,
) {
    let is_news = !condition::begins_with(&draft.status, Type::Ready, &format!("Try {attempt} "));
    let reason = lost_or(draft, Reason::ProvisioningFailed);
    let message = format!("Try {attempt} failed, and the next one is in {} s: {error}", wait.as_secs());
    draft.advance(reason, message, draft.status.progress.as_deref().map_or(0.0, quantity::fraction));
    draft.status.download_speed = None;
    if is_news {
        let note = format!("Try {attempt} failed: {error}");
        context.tell(&subject.reference, EventType::Warning, "DataSourceSyncFailed", note).await;
    }
}

/// How the reason begins for which the registry does not let an image in.
const DENIED: &str = "The registry does not take the image";

/// The registry does not let the image in: its quota is full, say, and there may be room later. Gives when to try again.
pub(super) async fn denied<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    error: &ClientError,
) -> Duration {
    let reason = lost_or(draft, Reason::ProvisioningFailed);
    let is_news = !condition::begins_with(&draft.status, Type::Ready, DENIED);
    draft.advance(reason, format!("{DENIED}: {error}"), 0.0);
    if is_news {
        context.tell(&subject.reference, EventType::Warning, "DataSourceSyncFailed", error.to_string()).await;
    }
    LONGEST_REST
}

async fn refused<I: Image>(subject: &Subject<'_, I>, context: &Context, draft: &mut Draft, error: String) {
    context.tell(&subject.reference, EventType::Warning, "DataSourceSyncFailed", error.clone()).await;
    let message =
        format!("{error}. Correct the source, and change or recreate the {}.", subject.id.kind.as_str());
    draft.fail(Reason::ProvisioningFailedTerminally, message);
}
