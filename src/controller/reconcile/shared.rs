//! The image that all disks of one file on a web server share.
//!
//! It is a `VirtualImage` in the controller's own namespace, where no tenant sees the addresses of others. Its name is made of the
//! address and of what the server says about the file's state (or of the checksum that the user gives), so that disks of the same
//! state share it, and a file that has changed is another image. The disk that needs it first has it made, and the last one to go
//! takes it along. Which image a disk was made from is in its status.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt as _};
use tokio::time::timeout;

use super::ReconcileError;
use super::origin::{Blocked, Resolved};
use crate::client::redacted;
use crate::controller::condition::Reason;
use crate::controller::context::{Context, FIELD_MANAGER};
use crate::controller::crd::{
    DataSource, DataSourceType, HttpDataSource, MadeFrom, Storage, VirtualImage, VirtualImageSpec, VmDisk,
};
use crate::controller::draft::Draft;
use crate::controller::image::{HttpFile, Image, ImageId, Kind, remove};
use crate::oci::{Algorithm, Digest};

/// The label of images that go with the last disk that was made from them.
const SHARED: &str = "dvcr.virtualization.deckhouse.io/shared";

/// How long a server is waited for that is asked about a file.
const PATIENCE: Duration = Duration::from_secs(10);

/// How young an image may be without a disk: the one that it is made for says so a moment later.
const FIRST_DISK: Duration = Duration::from_mins(5);

/// Looks for the image of a file, and has it made if there is none.
pub(super) async fn resolve(
    disk: &ImageId,
    file: &HttpFile,
    spec: &HttpDataSource,
    made_from: Option<MadeFrom>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Result<Resolved, Blocked>, ReconcileError> {
    let api = VirtualImage::api(&context.client, Some(&context.shared_namespace));
    if let Some(from) = made_from
        && from.namespace.as_ref() == Some(&context.shared_namespace)
        && let Some(found) = api.get_opt(&from.name).await?
        && found.spec.data_source.http.as_ref() == Some(spec)
        && is_shared(&found)
    {
        draft.status.made_from = Some(from);
        return Ok(look(&found, draft));
    }
    let Ok(_turn) = context.asking.try_acquire() else {
        let message = "Other sources are being looked at first.".to_owned();
        return Ok(Err(Blocked { reason: Reason::DatasourceNotReady, message }));
    };
    let name = match name(disk, file, spec, context).await {
        Ok(name) => name,
        Err(message) => return Ok(Err(Blocked { reason: Reason::SourceUnreachable, message })),
    };
    let image = match api.get_opt(&name).await? {
        Some(found) => found,
        None => match make(&api, &name, spec, context).await? {
            Some(made) => made,
            None => return Ok(Err(going(&name))),
        },
    };
    draft.status.made_from = Some(MadeFrom {
        kind: Kind::VirtualImage.as_str().to_owned(),
        namespace: Some(context.shared_namespace.clone()),
        name,
    });
    // One that has failed for others a while ago may be made now. Who has waited for it is told that it has failed, above.
    if image.is_worth_another_try() {
        remove(&context.client, &image).await?;
        return Ok(Err(going(&image.name_any())));
    }
    Ok(look(&image, draft))
}

fn going(name: &str) -> Blocked {
    let message = format!("VirtualImage {name} is being deleted, and is made again after that");
    Blocked { reason: Reason::ImageNotReady, message }
}

/// What an image of ours is to a disk that is to be made from it.
pub(super) fn look<I: Image>(image: &I, draft: &Draft) -> Result<Resolved, Blocked> {
    // One that is being taken from goes after that.
    if image.meta().deletion_timestamp.is_some() && !draft.takes_from(image.meta()) {
        return Err(going(&image.id().name));
    }
    let (id, status) = (image.id(), Box::new(image.status().cloned().unwrap_or_default()));
    Ok(if image.is_ready() { Resolved::Image { id, status } } else { Resolved::Awaited { id, status } })
}

/// The name of the image: the same for all disks of the file as it is now. The error is why its server cannot be asked.
async fn name(
    disk: &ImageId,
    file: &HttpFile,
    spec: &HttpDataSource,
    context: &Context,
) -> Result<String, String> {
    let state = if file.checksums.is_empty() {
        let asked = timeout(PATIENCE, context.provisioner.version(file)).await;
        let asked = asked.map_err(|_| format!("{} does not answer", redacted(&file.url)))?;
        let version = asked.map_err(|error| error.to_string())?;
        // A server that says nothing about it may have another file each time.
        version.unwrap_or_else(|| disk.uid.clone())
    } else {
        let mut checksums: Vec<_> = file.checksums.iter().map(ToString::to_string).collect();
        checksums.sort();
        checksums.join(" ")
    };
    // Of the whole spec: an image of the same name has the same.
    let spec = serde_json::to_string(spec).map_err(|error| error.to_string())?;
    let whole = Digest::of(Algorithm::Sha256, format!("{spec} {state}").as_bytes());
    Ok(format!("http-{}", &whole.hex()[..20]))
}

async fn make(
    api: &Api<VirtualImage>,
    name: &str,
    spec: &HttpDataSource,
    context: &Context,
) -> Result<Option<VirtualImage>, kube::Error> {
    let source = DataSource {
        kind: DataSourceType::Http,
        http: Some(spec.clone()),
        container_image: None,
        object_ref: None,
        upload: None,
    };
    let spec = VirtualImageSpec {
        storage: Storage::ContainerRegistry,
        persistent_volume_claim: None,
        data_source: source,
    };
    let mut image = VirtualImage::new(name, spec);
    image.labels_mut().insert(SHARED.to_owned(), "true".to_owned());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, &image).await {
        // In a cluster it is the controller's own, and is there.
        Err(kube::Error::Api(error)) if error.code == 404 => {
            make_namespace(context).await?;
            api.create(&parameters, &image).await.map(Some)
        }
        // Another disk was faster.
        Err(kube::Error::Api(error)) if error.code == 409 => api.get_opt(name).await,
        made => made.map(Some),
    }
}

async fn make_namespace(context: &Context) -> Result<(), kube::Error> {
    let name = Some(context.shared_namespace.clone());
    let namespace =
        Namespace { metadata: ObjectMeta { name, ..ObjectMeta::default() }, ..Namespace::default() };
    match Api::<Namespace>::all(context.client.clone()).create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(error)) if error.code == 409 => Ok(()),
        made => made.map(drop),
    }
}

/// A disk has done with the image that it was made from: if it was the last one, that goes as well.
pub(super) async fn let_go(
    disk: &ImageId,
    from: Option<&MadeFrom>,
    context: &Context,
) -> Result<(), kube::Error> {
    let Some(from) = from else { return Ok(()) };
    if from.kind != Kind::VirtualImage.as_str() || from.namespace.as_ref() != Some(&context.shared_namespace)
    {
        return Ok(());
    }
    let api = VirtualImage::api(&context.client, Some(&context.shared_namespace));
    match api.get_opt(&from.name).await? {
        Some(image) if is_shared(&image) && !has_disks(&from.name, Some(disk), context).await? => {
            unneeded(&image, context).await
        }
        _ => Ok(()),
    }
}

/// Whether an image is one that disks share.
pub(super) fn is_ours<I: Image>(image: &I, context: &Context) -> bool {
    let is_there = image.meta().namespace.as_ref() == Some(&context.shared_namespace);
    I::KIND == Kind::VirtualImage && is_there && is_shared(image)
}

/// Removes an image that no disk was made from: a controller may have ended before it said so.
pub(super) async fn sweep<I: Image>(image: &I, context: &Context) -> Result<(), kube::Error> {
    let name = image.id().name;
    if is_ours(image, context) && image.is_older(FIRST_DISK) && !has_disks(&name, None, context).await? {
        return unneeded(image, context).await;
    }
    Ok(())
}

fn is_shared<I: Image>(image: &I) -> bool {
    image.meta().labels.as_ref().is_some_and(|labels| labels.contains_key(SHARED))
}

/// Whether there is a disk that was made from a shared image, besides `but`. One that is going does not count: of two that go at the
/// same time, one has to be the last.
async fn has_disks(image: &str, but: Option<&ImageId>, context: &Context) -> Result<bool, kube::Error> {
    let disks = VmDisk::api(&context.client, None).list(&ListParams::default()).await?;
    Ok(disks.items.iter().any(|disk| {
        let from = disk.status.as_ref().and_then(|status| status.made_from.as_ref());
        let is_of_it = from.is_some_and(|from| {
            from.name == image && from.namespace.as_ref() == Some(&context.shared_namespace)
        });
        let is_other = but.is_none_or(|but| disk.metadata.uid.as_ref() != Some(&but.uid));
        is_of_it && is_other && disk.metadata.deletion_timestamp.is_none()
    }))
}

async fn unneeded<I: Image>(image: &I, context: &Context) -> Result<(), kube::Error> {
    tracing::info!(image = %image.id(), "no disk needs it any more");
    remove(&context.client, image).await
}
