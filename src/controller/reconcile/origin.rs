//! What an image is made from: whether it is there, and how it is reached.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};

use super::{ReconcileError, disk, golden, shared};
use crate::controller::condition::{self, Reason, Type};
use crate::controller::context::Context;
use crate::controller::crd::{
    ClusterVirtualImage, ImageStatus, MadeFrom, ObjectRefKind, VirtualImage, VmDisk,
};
use crate::controller::draft::Draft;
use crate::controller::image::{Image, ImageId, Kind, Origin, SecretRef};
use crate::controller::provisioner::{Claim, NotReady, Supply};
use crate::importer::Checksum;

/// A source that is there.
pub(super) enum Resolved {
    /// Bytes that are brought into the registry, and the UID of the resource that has them, if it is one of ours.
    Supply(Supply, Option<String>),
    /// The user brings them.
    Upload {
        /// What they must hash to.
        checksums: Vec<Checksum>,
    },
    /// An image in our registry.
    Image {
        /// Whose it is.
        id: ImageId,
        /// What is known of it.
        status: Box<ImageStatus>,
    },
    /// An image that is being made for whoever asks for it.
    Awaited {
        /// Whose it is.
        id: ImageId,
        /// How far it is.
        status: Box<ImageStatus>,
    },
    /// Nothing that this can ever be made from.
    Refused {
        /// In a word.
        reason: Reason,
        /// In a sentence.
        message: String,
    },
    /// Another disk.
    Disk(Box<VmDisk>),
    /// Nothing.
    Empty,
}

/// A source that is not there, or not yet.
pub(super) struct Blocked {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// Looks for the source.
pub(super) async fn resolve(
    origin: &Origin,
    id: &ImageId,
    size: Option<u64>,
    context: &Context,
    draft: &mut Draft,
) -> Result<Result<Resolved, Blocked>, ReconcileError> {
    let made_from = draft.status.made_from.take();
    Ok(match origin {
        Origin::Http(file) => Ok(Resolved::Supply(Supply::Http(file.clone()), None)),
        Origin::Upload { checksums } => Ok(Resolved::Upload { checksums: checksums.clone() }),
        Origin::Shared { file, spec } => shared::resolve(id, file, spec, made_from, context, draft).await?,
        Origin::Golden(name) => golden::resolve(name, size, made_from, context, draft).await?,
        Origin::Disk(name) => disk::resolve(id, name, context, draft).await?,
        Origin::Empty => Ok(Resolved::Empty),
        Origin::Registry { image, authorities, secret } => {
            let credentials = match secret {
                Some(secret) => match read(secret, context).await? {
                    Ok(credentials) => Some(credentials),
                    Err(message) => {
                        return Ok(Err(Blocked { reason: Reason::ContainerRegistrySecretNotFound, message }));
                    }
                },
                None => None,
            };
            let (image, authorities) = (image.clone(), authorities.clone());
            Ok(Resolved::Supply(Supply::Registry { image, authorities, credentials }, None))
        }
        Origin::Object { kind, namespace, name } => {
            let namespace = namespace.as_deref();
            match kind {
                ObjectRefKind::VirtualImage => image::<VirtualImage>(context, draft, namespace, name).await?,
                ObjectRefKind::ClusterVirtualImage => {
                    image::<ClusterVirtualImage>(context, draft, None, name).await?
                }
                ObjectRefKind::VirtualDisk => {
                    let found = context.provisioner.disk(namespace.unwrap_or_default(), name).await?;
                    found.map(|claim| Resolved::Supply(Supply::Claim(claim), None)).map_err(|error| {
                        match error {
                            NotReady::Missing(message) => {
                                Blocked { reason: Reason::VirtualDiskNotReady, message }
                            }
                            NotReady::Attached(message) => {
                                Blocked { reason: Reason::VirtualDiskAttachedToVirtualMachine, message }
                            }
                        }
                    })
                }
                ObjectRefKind::VirtualDiskSnapshot => Err(Blocked {
                    reason: Reason::VirtualDiskSnapshotNotReady,
                    message: format!(
                        "VirtualDiskSnapshot {name}: images of snapshots are not supported here; make a VirtualDisk \
                         of the snapshot, and an image of that"
                    ),
                }),
            }
        }
    })
}

/// The credentials in a pull secret; a sentence when there are none.
async fn read(secret: &SecretRef, context: &Context) -> Result<Result<String, String>, ReconcileError> {
    let SecretRef { namespace, name } = secret;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let Some(found) = api.get_opt(name).await? else {
        return Ok(Err(format!("secret {namespace}/{name} does not exist")));
    };
    let data = found.data.unwrap_or_default();
    let Some(document) = data.get(".dockerconfigjson") else {
        return Ok(Err(format!(
            "secret {namespace}/{name} has no key .dockerconfigjson; make it with kubectl create secret docker-registry"
        )));
    };
    Ok(String::from_utf8(document.0.clone())
        .map_err(|_| format!("secret {namespace}/{name}: .dockerconfigjson is no text")))
}

/// An image that another one is made from.
async fn image<I: Image>(
    context: &Context,
    draft: &mut Draft,
    namespace: Option<&str>,
    name: &str,
) -> Result<Result<Resolved, Blocked>, ReconcileError> {
    let reason = match I::KIND {
        Kind::VirtualImage | Kind::VmDisk => Reason::ImageNotReady,
        Kind::ClusterVirtualImage => Reason::ClusterImageNotReady,
    };
    let blocked = |message: String| Ok(Err(Blocked { reason, message }));
    let kind = I::KIND.as_str();
    let Some(found) = I::api(&context.client, namespace).get_opt(name).await? else {
        return blocked(format!("{kind} {name} does not exist"));
    };
    // One that is being taken from goes after that.
    if found.meta().deletion_timestamp.is_some() && !draft.takes_from(found.meta()) {
        return blocked(format!("{kind} {name} is being deleted"));
    }
    draft.status.made_from = Some(MadeFrom {
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    });
    let status = found.status().cloned().unwrap_or_default();
    if !condition::holds(&status, Type::Ready) {
        return blocked(format!("{kind} {name} is not ready yet"));
    }
    let claim = status.target.as_ref().and_then(|target| target.persistent_volume_claim_name.clone());
    Ok(Ok(match claim {
        Some(name) => {
            let namespace = namespace.unwrap_or_default().to_owned();
            Resolved::Supply(Supply::Claim(Claim { namespace, name }), found.uid())
        }
        None => Resolved::Image { id: found.id(), status: Box::new(status) },
    }))
}
