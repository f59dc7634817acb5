//! What only disks do: they have a size that their user chooses, wait for images that are made for them, are copies of other disks,
//! begin empty, and grow.

use std::time::Duration;

use kube::runtime::events::EventType;

use super::origin::{Blocked, Resolved};
use super::work::{Stage, became_ready, claim_of, fill_with};
use super::{RUNNING, ReconcileError, Subject, WAITING};
use crate::controller::condition::{self, Reason, Said, Type};
use crate::controller::context::Context;
use crate::controller::crd::{ImageStatus, Target, VmDisk};
use crate::controller::draft::Draft;
use crate::controller::image::{Image, ImageId, Kind};
use crate::controller::provisioner::{Content, NoClaim};
use crate::controller::{quantity, users};

/// How soon it is looked again for a claim that grows.
const GROWING: Duration = Duration::from_secs(15);

/// Bytes that a machine sees of an image; 0 when its status does not say.
pub(super) fn virtual_size(status: &ImageStatus) -> u64 {
    status.size.as_ref().and_then(|size| size.unpacked_bytes.parse().ok()).unwrap_or(0)
}

/// Whether the disk that was asked for holds the image. What does not is refused with both sizes.
pub(super) async fn fits<I: Image>(subject: &Subject<'_, I>, context: &Context, draft: &mut Draft) -> bool {
    let needed = virtual_size(&draft.status);
    let Some(asked) = subject.image.size().filter(|asked| *asked < needed) else { return true };
    let (asked, needed) = (quantity::exact(asked), quantity::exact(needed));
    let message = format!(
        "The disk is to have {asked}, and the virtual size of its image is {needed}. Set spec.storage to {needed} or more."
    );
    refuse(subject, context, draft, Reason::DiskTooSmall, message).await;
    false
}

/// Nothing can ever be made of what the spec says.
pub(super) async fn refuse<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    reason: Reason,
    message: String,
) {
    context.tell(&subject.reference, EventType::Warning, reason.as_str(), message.clone()).await;
    draft.status.progress = None;
    draft.fail(reason, message);
}

/// An image that is being made for the disk: what is said of it is said of the disk, which is half of the way.
pub(super) async fn follow<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    image: &ImageStatus,
) -> Option<Duration> {
    let ready = condition::find(image, Type::Ready);
    let said = ready.map_or("The image is fetched from its source.", |ready| ready.message.as_str());
    let has_failed = [Reason::ProvisioningFailedTerminally, Reason::InvalidSpec]
        .into_iter()
        .any(|reason| condition::has_reason(image, Type::Ready, reason));
    if has_failed {
        // What it says to do about it is meant for the owner of the image.
        let why = said.split(". Correct the s").next().unwrap_or_default();
        let message = format!("{why}. Correct spec.source, or recreate the {}.", I::KIND.as_str());
        context.tell(&subject.reference, EventType::Warning, "DataSourceSyncFailed", message.clone()).await;
        draft.fail(Reason::ProvisioningFailedTerminally, message);
        return None;
    }
    let is_retried = condition::has_reason(image, Type::Ready, Reason::ProvisioningFailed);
    let reason = if is_retried { Reason::ProvisioningFailed } else { Reason::Provisioning };
    let part = image.progress.as_deref().map_or(0.0, quantity::fraction);
    draft.status.download_speed.clone_from(&image.download_speed);
    let said = if said.is_empty() { "The image is fetched from its source." } else { said };
    draft.advance(reason, said, Stage::first_of(2).part(part));
    Some(RUNNING)
}

/// Looks for another disk of the namespace.
pub(super) async fn resolve(
    id: &ImageId,
    name: &str,
    context: &Context,
    draft: &Draft,
) -> Result<Result<Resolved, Blocked>, ReconcileError> {
    let blocked = |message| Ok(Err(Blocked { reason: Reason::DiskNotReady, message }));
    let api = VmDisk::api(&context.client, id.namespace.as_deref());
    let Some(found) = api.get_opt(name).await? else {
        return blocked(format!("VMDisk {name} does not exist"));
    };
    let is_begun = draft.takes_from(&found.metadata);
    if found.metadata.deletion_timestamp.is_some() && !is_begun {
        return blocked(format!("VMDisk {name} is being deleted"));
    }
    if let Some(machine) = users::running(&context.client, &found).await?.filter(|_| !is_begun) {
        return blocked(format!("VMDisk {name} is written to by {machine}: stop the machine first"));
    }
    if !found.is_ready() {
        return blocked(format!("VMDisk {name} is not ready yet"));
    }
    Ok(Ok(Resolved::Disk(Box::new(found))))
}

/// Makes the disk of what another one holds.
pub(super) async fn copy<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    source: &VmDisk,
) -> Result<Option<Duration>, ReconcileError> {
    let id = source.id();
    let status = source.status.clone().unwrap_or_default();
    let capacity = status.capacity.as_deref().and_then(quantity::bytes).unwrap_or(0);
    // One that has grown since the copy was begun is copied as far as it was.
    let is_begun = draft.takes_from(&source.metadata);
    if let Some(asked) = subject.image.size().filter(|asked| *asked < capacity && !is_begun) {
        let (asked, needed) = (quantity::exact(asked), quantity::exact(capacity));
        let message = format!(
            "The disk is to have {asked}, and VMDisk {}, of which it is a copy, has {needed}. Set spec.storage to {needed} or more.",
            id.name
        );
        draft.fail(Reason::DiskTooSmall, message);
        return Ok(None);
    }
    // It stays until the copy is made.
    draft.status.source_uid.clone_from(&source.metadata.uid);
    draft.status.digest.clone_from(&status.digest);
    draft.status.format.clone_from(&status.format);
    draft.status.cdrom = status.cdrom;
    fill_with(subject, context, draft, Content::Claim(claim_of(&id)), Stage::first_of(1)).await
}

/// Makes an empty disk.
pub(super) async fn make_empty<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Option<Duration>, ReconcileError> {
    let claim = claim_of(subject.id);
    let size = subject.image.size().unwrap_or(0);
    let class = draft.status.storage_class_name.clone();
    match context.provisioner.make_claim(subject.id, &claim, class.as_deref(), size).await? {
        Ok(()) => {}
        Err(NoClaim::ForNow(why)) => {
            draft.advance(Reason::ProvisioningFailed, why, 0.0);
            return Ok(Some(WAITING));
        }
        Err(NoClaim::Finally(why)) => {
            draft.fail(Reason::ProvisioningFailedTerminally, why);
            return Ok(None);
        }
    }
    draft.status.format = Some("raw".to_owned());
    draft.status.capacity = Some(quantity::exact(size));
    let target = Target { registry_url: None, persistent_volume_claim_name: Some(claim.name) };
    became_ready(subject, context, draft, target).await;
    Ok(Some(RUNNING))
}

/// Makes the claim of a disk that is ready as large as is asked for by now. Tells when to look again.
pub(super) async fn grow<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Option<Duration>, ReconcileError> {
    let (Kind::VmDisk, Some(asked)) = (I::KIND, subject.image.size()) else { return Ok(None) };
    let capacity = draft.status.capacity.as_deref().and_then(quantity::bytes).unwrap_or(0);
    if asked <= capacity {
        return Ok(None);
    }
    let text = quantity::exact(asked);
    match context.provisioner.grow_claim(&claim_of(subject.id), asked).await? {
        Ok(true) => {
            condition::remove(&mut draft.status, Type::Resizing);
            let note = format!("The disk has grown to {text}.");
            context.tell(&subject.reference, EventType::Normal, "DiskResized", note).await;
            draft.status.capacity = Some(text);
            Ok(None)
        }
        Ok(false) => {
            let message = format!("The persistent volume claim is growing to {text}.");
            draft.say(Type::Resizing, Said { holds: true, reason: Reason::Resizing, message });
            // Many drivers wait for a machine to have it.
            Ok(Some(context.presence_interval.min(GROWING)))
        }
        Err(why) => {
            let message = format!("The persistent volume claim cannot grow to {text}: {why}");
            draft.say(Type::Resizing, Said::no(Reason::ResizeFailed, message));
            Ok(Some(context.presence_interval))
        }
    }
}
