//! An image that is ready: whether it is still there.

use std::time::Duration;

use kube::runtime::events::EventType;

use super::work::claim_of;
use super::{RUNNING, ReconcileError, Subject, close_upload};
use crate::controller::condition::{Reason, Said, Type};
use crate::controller::context::Context;
use crate::controller::draft::Draft;
use crate::controller::image::{Image, Origin};

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
        return Ok(Some(context.presence_interval));
    }
    let can_heal = !matches!(subject.image.origin(), Ok(Origin::Upload { .. }) | Err(_));
    let outlook = if can_heal {
        "It is made again from its source."
    } else {
        "Recreate the resource to upload the image again."
    };
    let message = format!("{message} {outlook}");
    context.tell(&subject.reference, EventType::Warning, reason.as_str(), message.clone()).await;
    draft.fail(reason, message);
    draft.status.progress = None;
    Ok(Some(RUNNING))
}
