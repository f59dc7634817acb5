//! A disk of a golden image.

use std::time::Duration;

use tokio::time::timeout;

use super::ReconcileError;
use super::origin::{Blocked, Resolved};
use super::shared::look;
use crate::controller::condition::Reason;
use crate::controller::context::Context;
use crate::controller::crd::{ClusterVirtualImage, MadeFrom};
use crate::controller::draft::Draft;
use crate::controller::golden::{GoldenError, GoldenImage};
use crate::controller::image::{Image, Kind};
use crate::controller::quantity;

/// How long publishers are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks for the version that the disk is made from, and has it made if there is none. `asked` are the bytes of the disk.
pub(super) async fn resolve(
    name: &str,
    asked: Option<u64>,
    made_from: Option<MadeFrom>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Result<Resolved, Blocked>, ReconcileError> {
    let blocked = |reason, message| Ok(Err(Blocked { reason, message }));
    // The version that was found before, so that the one that is being written is not changed for a newer one.
    if let Some(from) = made_from.filter(|from| from.kind == Kind::ClusterVirtualImage.as_str())
        && let Some(found) = ClusterVirtualImage::api(&context.client, None).get_opt(&from.name).await?
        && GoldenImage::of(&found).is_some_and(|image| image.name == name)
        && let Ok(resolved) = look(&found, draft)
    {
        draft.status.made_from = Some(from);
        return Ok(Ok(resolved));
    }
    let Ok(_turn) = context.asking.try_acquire() else {
        return blocked(Reason::DatasourceNotReady, "Other sources are being looked at first.".to_owned());
    };
    let Ok(found) = timeout(PATIENCE, find(name, asked, context)).await else {
        let message = format!("the publisher of golden image {name} does not answer");
        return blocked(Reason::SourceUnreachable, message);
    };
    match found {
        Ok(Found::Version(version)) => {
            draft.status.made_from = Some(MadeFrom {
                kind: Kind::ClusterVirtualImage.as_str().to_owned(),
                namespace: None,
                name: version.id().name,
            });
            Ok(look(version.as_ref(), draft))
        }
        Ok(Found::TooSmall(minimum)) => {
            let (asked, minimum) = (quantity::exact(asked.unwrap_or(0)), quantity::exact(minimum));
            let message = format!(
                "The disk is to have {asked}, and golden image {name} takes at least {minimum}. Set spec.storage to {minimum} or more."
            );
            Ok(Ok(Resolved::Refused { reason: Reason::DiskTooSmall, message }))
        }
        Ok(Found::Going) => blocked(
            Reason::ImageNotReady,
            format!("a version of golden image {name} that has failed is being removed"),
        ),
        Err(GoldenError::Kube(error)) => Err(error.into()),
        Err(error @ GoldenError::Unknown { .. }) => blocked(Reason::GoldenImageNotFound, error.to_string()),
        Err(error) => blocked(Reason::SourceUnreachable, error.to_string()),
    }
}

enum Found {
    Version(Box<ClusterVirtualImage>),
    /// The disk would be smaller than this.
    TooSmall(u64),
    /// The one that there was has failed, and goes before there is another one.
    Going,
}

async fn find(name: &str, asked: Option<u64>, context: &Context) -> Result<Found, GoldenError> {
    let image = context.golden.find(name).await?;
    if asked.is_some_and(|asked| asked < image.minimum()) {
        return Ok(Found::TooSmall(image.minimum()));
    }
    let version = context.golden.version(&image).await?;
    Ok(version.map_or(Found::Going, |version| Found::Version(Box::new(version))))
}
