//! Who uses an image, and so must not lose it: machines, disks, and images that are being made from it.

use std::fmt;

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

use super::condition::{self, Type};
use super::crd::{ClusterVirtualImage, GROUP, VERSION, VirtualImage};
use super::image::{Image, ImageId, Kind, Origin};

/// Somebody who uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// What it is.
    pub(super) kind: String,
    /// Where it is.
    pub(super) namespace: Option<String>,
    /// What it is called.
    pub(super) name: String,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Who uses `image` now.
pub(super) async fn of<I: Image>(client: &Client, image: &I) -> Result<Vec<User>, kube::Error> {
    let id = image.id();
    let mut users = machines(client, image, &id).await?;
    users.extend(made_from::<VirtualImage>(client, &id).await?);
    users.extend(made_from::<ClusterVirtualImage>(client, &id).await?);
    Ok(users)
}

/// Images that are being made from this one.
async fn made_from<I: Image>(client: &Client, id: &ImageId) -> Result<Vec<User>, kube::Error> {
    let all = I::api(client, None).list(&ListParams::default()).await?;
    let depends = |image: &I| {
        let status = image.status().cloned().unwrap_or_default();
        // Once it is ready it has its own copy, and before it is begun it can still do without.
        let is_begun = status.source_uid.as_deref() == Some(id.uid.as_str());
        is_begun && image.meta().deletion_timestamp.is_none() && !condition::holds(&status, Type::Ready)
    };
    let named = |image: &I| match image.origin() {
        Ok(Origin::Object { kind, name, namespace }) => {
            kind.as_str() == id.kind.as_str() && name == id.name && namespace == id.namespace
        }
        _ => false,
    };
    let made = all.items.iter().filter(|image| named(image) && depends(image));
    Ok(made
        .map(|image| {
            let ImageId { kind, namespace, name, .. } = image.id();
            User { kind: kind.as_str().to_owned(), namespace, name }
        })
        .collect())
}

/// Machines that have the image as a disk: those of Deckhouse by its name, those of KubeVirt by its address.
async fn machines<I: Image>(client: &Client, image: &I, id: &ImageId) -> Result<Vec<User>, kube::Error> {
    let mut users = Vec::new();
    for machine in list(client, GROUP, VERSION, "VirtualMachine", id).await? {
        let references = machine.data["spec"]["blockDeviceRefs"].as_array().into_iter().flatten();
        if references
            .into_iter()
            .any(|reference| reference["kind"] == id.kind.as_str() && reference["name"] == id.name.as_str())
        {
            users.push(user("VirtualMachine", machine));
        }
    }
    let url = image.status().and_then(|status| status.target.clone()).and_then(|target| target.registry_url);
    let Some(url) = url else { return Ok(users) };
    for machine in list(client, "kubevirt.io", "v1", "VirtualMachineInstance", id).await? {
        let volumes = machine.data["spec"]["volumes"].as_array().into_iter().flatten();
        if volumes.into_iter().any(|volume: &Value| volume["containerDisk"]["image"] == url.as_str()) {
            users.push(user("VirtualMachineInstance", machine));
        }
    }
    Ok(users)
}

fn user(kind: &str, object: DynamicObject) -> User {
    User {
        kind: kind.to_owned(),
        namespace: object.metadata.namespace,
        name: object.metadata.name.unwrap_or_default(),
    }
}

/// All objects of a kind that the API server may not have.
async fn list(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    id: &ImageId,
) -> Result<Vec<DynamicObject>, kube::Error> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match (&id.namespace, id.kind) {
        (Some(namespace), Kind::VirtualImage) => Api::namespaced_with(client.clone(), namespace, &resource),
        _ => Api::all_with(client.clone(), &resource),
    };
    match api.list(&ListParams::default()).await {
        Ok(found) => Ok(found.items),
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
