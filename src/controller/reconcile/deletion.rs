//! An image that is to go: what is done for it ends, and what belongs to it is removed.

use std::time::Duration;

use super::work::claim_of;
use super::{ENDING, ReconcileError, Subject, WAITING, close_upload, shared};
use crate::controller::condition::{Reason, Said, Type};
use crate::controller::context::Context;
use crate::controller::draft::Draft;
use crate::controller::image::Image;
use crate::controller::users;

/// Removes one thing after the other. Tells when to look again; `None` once nothing is left.
pub(super) async fn step<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Option<Duration>, ReconcileError> {
    let users = users::of::<I>(&context.client, subject.image, context.makes_disks).await?;
    if !users.is_empty() {
        let names = users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("The image is in use by {names}.");
        draft.say(
            Type::InUse,
            Said { holds: true, reason: Reason::AttachedToVirtualMachine, message: message.clone() },
        );
        let pending = Said { holds: true, reason: Reason::CleanupPending, message };
        draft.say(Type::Terminating, pending);
        return Ok(Some(WAITING));
    }
    draft.say(Type::InUse, Said::no(Reason::NotInUse, ""));
    if !context.provisioner.cancel(subject.id).await? {
        let message = "The import is being ended.".to_owned();
        draft.say(Type::Terminating, Said { holds: true, reason: Reason::CleanupPending, message });
        return Ok(Some(ENDING));
    }
    close_upload(subject, context).await?;
    context.library.remove(subject.id).await?;
    if subject.id.namespace.is_some()
        && !context.provisioner.remove_claim(subject.id, &claim_of(subject.id)).await?
    {
        let message = "The persistent volume claim is being removed.".to_owned();
        draft.say(Type::Terminating, Said { holds: true, reason: Reason::CleanupPending, message });
        return Ok(Some(WAITING));
    }
    shared::let_go(subject.id, draft.status.made_from.as_ref(), context).await?;
    Ok(None)
}
