//! An image that the user uploads.
//!
//! It waits until the file is whole, then it is imported like any other. A file that is refused is thrown away, and the
//! image waits for another one.

use std::time::{Duration, SystemTime};

use kube::runtime::events::EventType;

use super::work::{Stage, fill, import, lost_or};
use super::{RUNNING, ReconcileError, Subject};
use crate::controller::condition::{self, Reason, Type};
use crate::controller::context::Context;
use crate::controller::draft::Draft;
use crate::controller::image::{Image, ImageId};
use crate::controller::provisioner::Supply;
use crate::controller::quantity;
use crate::controller::uploads::Uploaded;
use crate::importer::{Checksum, ratio};

pub(super) async fn step<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    checksums: Vec<Checksum>,
) -> Result<Option<Duration>, ReconcileError> {
    if lost_or(draft, Reason::Ready) != Reason::Ready {
        // Nobody can say whether the user still has the file.
        return Ok(None);
    }
    let is_claim = subject.image.storage().is_claim();
    let receive = Stage::first_of(if is_claim { 3 } else { 2 });
    if is_claim && draft.status.size.is_some() && context.library.has(subject.id).await? {
        return fill(subject, context, draft, subject.id, receive.next().next()).await;
    }
    match context.uploads.look(subject.id).await? {
        Uploaded::Whole => take(subject, context, draft, checksums, receive.next()).await,
        Uploaded::Receiving { length, total } => {
            let of_all = total.map(|total| format!(" of {}", quantity::size(total))).unwrap_or_default();
            let message =
                format!("The image is being uploaded: {}{of_all} came so far.", quantity::size(length));
            publish(subject.id, context, draft)?;
            let fraction = total.map_or(0.0, |total| ratio(length, total));
            draft.advance(Reason::Provisioning, message, receive.part(fraction));
            Ok(Some(RUNNING))
        }
        Uploaded::Waiting(length) => {
            let expires = publish(subject.id, context, draft)?;
            if SystemTime::now() >= expires {
                let hours = context.uploads.patience.as_secs_f64() / 3600.0;
                let message = format!(
                    "The image was not uploaded within {hours:.1} hours. Recreate the {} to upload the image again.",
                    subject.id.kind.as_str()
                );
                context
                    .tell(&subject.reference, EventType::Warning, "DataSourceSyncFailed", message.clone())
                    .await;
                context.uploads.remove(subject.id).await?;
                draft.fail(Reason::WaitForUserUploadTimeout, message);
                return Ok(None);
            }
            wait(draft, length);
            Ok(Some(RUNNING))
        }
    }
}

/// Says that the image waits, unless it says already why it waits again.
fn wait(draft: &mut Draft, length: u64) {
    let message = if length > 0 {
        format!(
            "The upload broke off at byte {length}. Go on with curl -C {length} -T FILE URL, or begin anew; the URL is \
             in status.imageUploadURLs."
        )
    } else {
        let before = condition::find(&draft.status, Type::Ready).map(|condition| condition.message.as_str());
        match before {
            Some(refused) if refused.starts_with(REFUSED) => refused.replacen(BEING_REMOVED, "", 1),
            _ => "Waiting for the image to be uploaded to a URL in status.imageUploadURLs.".to_owned(),
        }
    };
    draft.status.progress = None;
    draft.status.download_speed = None;
    draft.advance(Reason::WaitForUserUpload, message, 0.0);
}

/// How the reason begins for which an upload was refused.
const REFUSED: &str = "The uploaded file was refused";

/// What is said behind it until the file is gone.
const BEING_REMOVED: &str = " and is being removed";

/// Imports the file that was uploaded.
async fn take<I: Image>(
    subject: &Subject<'_, I>,
    context: &Context,
    draft: &mut Draft,
    checksums: Vec<Checksum>,
    stage: Stage,
) -> Result<Option<Duration>, ReconcileError> {
    if condition::begins_with(&draft.status, Type::Ready, &format!("{REFUSED}{BEING_REMOVED}")) {
        // The file goes before it is said that another one is welcome.
        context.uploads.remove(subject.id).await?;
        if !context.provisioner.cancel(subject.id).await? {
            tracing::debug!(image = %subject.id, "a refused import has not ended yet");
        }
        publish(subject.id, context, draft)?;
        wait(draft, 0);
        return Ok(Some(RUNNING));
    }
    let repository = context.uploads.repository(subject.id)?;
    draft.status.image_upload_urls = None;
    let wait_for = import(subject, context, draft, Supply::Uploaded { repository, checksums }, stage).await?;
    if condition::has_reason(&draft.status, Type::Ready, Reason::ProvisioningFailedTerminally) {
        let why = condition::find(&draft.status, Type::Ready).map(|condition| condition.message.clone());
        let why = why.unwrap_or_default();
        let why = why.split(". Correct the source").next().unwrap_or_default().to_owned();
        draft.status.progress = None;
        // The reason stands in the status before the file is removed: afterwards nobody could find it again.
        let message = format!("{REFUSED}{BEING_REMOVED}: {why}. Upload another one.");
        draft.advance(Reason::Provisioning, message, 0.0);
        return Ok(Some(RUNNING));
    }
    Ok(wait_for)
}

/// Makes sure that the addresses are published, and tells until when they are good.
fn publish(id: &ImageId, context: &Context, draft: &mut Draft) -> Result<SystemTime, ReconcileError> {
    let published =
        draft.status.image_upload_urls.as_ref().and_then(|urls| context.uploads.published(id, urls));
    let (token, expires) = match published {
        Some(published) => published,
        None => (context.uploads.token(id)?, SystemTime::now() + context.uploads.patience),
    };
    // The registry may have got another name since.
    draft.status.image_upload_urls = Some(context.uploads.urls(&token));
    Ok(expires)
}
