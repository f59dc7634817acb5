//! An image that is ready: whether it is still there.

use std::time::Duration;

use kube::runtime::events::EventType;

use super::work::{became_ready, claim_of};
use super::{RUNNING, ReconcileError, Subject, close_upload, disk, shared};
use crate::controller::condition::{Reason, Said, Type};
use crate::controller::context::Context;
use crate::controller::crd::Target;
use crate::controller::draft::Draft;
use crate::controller::image::{Image, Origin};

/// A disk that was lost: it stays so, unless its claim is there again.
pub(super) async fn look_for_lost<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Option<Duration>, ReconcileError> {
    let claim = claim_of(subject.id);
    if context.provisioner.has_claim(&claim).await? {
        let target = Target { registry_url: None, persistent_volume_claim_name: Some(claim.name) };
        became_ready(subject, context, draft, target).await;
    }
    Ok(Some(context.presence_interval))
}

pub(super) async fn step<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Option<Duration>, ReconcileError> {
    // The outcome is on record: nobody will ask for the work again, nor for what was uploaded.
    if !context.provisioner.cancel(subject.id).await? {
        return Ok(Some(RUNNING));
    }
    close_upload(subject, context).await?;
    draft.say(Type::InUse, Said::no(Reason::NotInUse, ""));
    let (is_there, reason, message) = if subject.image.storage().is_claim() {
        // The way to the claim may have been through the registry.
        context.library.remove(subject.id).await?;
        let claim = claim_of(subject.id);
        let message = format!("The persistent volume claim {} is gone.", claim.name);
        (context.provisioner.has_claim(&claim).await?, Reason::PvcLost, message)
    } else {
        let message = "The image is no longer in the registry.".to_owned();
        (context.library.has(subject.id).await?, Reason::ImageLost, message)
    };
    if is_there {
        shared::sweep(subject.image, context).await?;
        let growing = disk::grow(subject, context, draft).await?;
        return Ok(Some(growing.unwrap_or(context.presence_interval)));
    }
    let can_heal = I::HEALS && !matches!(subject.image.origin(), Ok(Origin::Upload { .. }) | Err(_));
    let outlook = if can_heal {
        "It is made again from its source."
    } else if !I::HEALS {
        "What was on it is lost; restore the claim, or recreate the resource for a new disk."
    } else {
        "Recreate the resource to upload the image again."
    };
    let message = format!("{message} {outlook}");
    context.tell(&subject.reference, EventType::Warning, reason.as_str(), message.clone()).await;
    draft.fail(reason, message);
    draft.status.progress = None;
    Ok(Some(RUNNING))
}
