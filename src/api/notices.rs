//! Who is told of a request that changes a manifest or a tag, before it is answered.

use axum::http::request::Parts;
use futures::FutureExt as _;

use super::Api;
use super::asker::caller;
use super::request_id::RequestId;
use crate::oci::{Reference, RepositoryName, Tag};
use crate::registry::{Change, Error, Event, PushedManifest, Result};

/// Tells of a push. It is not to be acknowledged if this fails.
pub(super) async fn pushed(
    api: &Api,
    request: &Parts,
    name: &RepositoryName,
    tags: Vec<Tag>,
    pushed: &PushedManifest,
    size: u64,
) -> Result<()> {
    let event = Event {
        tags,
        digest: Some(pushed.digest.clone()),
        media_type: Some(pushed.media_type.clone()),
        size: Some(size),
        ..event(Change::Pushed, name, request)
    };
    api.registry.happened(event).await
}

/// Deletes what `reference` names, and tells of it.
pub(super) async fn delete(
    api: &Api,
    request: &Parts,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<()> {
    let deletion = async {
        match reference {
            Reference::Tag(tag) => api.registry.delete_tag(name, tag).await,
            Reference::Digest(digest) => api.registry.delete_manifest(name, digest).await,
        }
    };
    let change = match reference {
        Reference::Tag(_) => Change::TagDeleted,
        Reference::Digest(_) => Change::ManifestDeleted,
    };
    if !api.registry.is_wanted(change, name) {
        return deletion.await;
    }
    let mut event = event(change, name, request);
    match reference {
        Reference::Tag(tag) => event.tags = vec![tag.clone()],
        Reference::Digest(digest) => event.digest = Some(digest.clone()),
    }
    match api.registry.manifest(name, reference).await {
        Ok(manifest) => {
            event.size = Some(manifest.bytes.len() as u64);
            (event.digest, event.media_type) = (Some(manifest.digest), Some(manifest.media_type));
            let deletion = deletion.map(|deleted| match deleted {
                Err(Error::ManifestUnknown { .. }) => Ok(false),
                deleted => deleted.map(|()| true),
            });
            if api.registry.deleting(event, deletion).await? {
                Ok(())
            } else {
                Err(Error::ManifestUnknown { name: name.clone(), reference: reference.clone() })
            }
        }
        // Nothing is there, or what cannot be read, as behind a tag that points to nothing. If it can be deleted nevertheless, it
        // is told.
        Err(Error::ManifestUnknown { .. } | Error::Record { .. }) => {
            deletion.await?;
            api.registry.happened(event).await
        }
        Err(error) => Err(error),
    }
}

/// A change of which nothing more is known than who asked for it.
fn event(change: Change, name: &RepositoryName, request: &Parts) -> Event {
    Event {
        change,
        repository: name.clone(),
        tags: Vec::new(),
        digest: None,
        media_type: None,
        size: None,
        user: caller(request).and_then(|caller| caller.identity().name()).map(str::to_owned),
        reason: None,
        request: request.extensions.get::<RequestId>().map(|id| id.as_str().to_owned()),
    }
}
