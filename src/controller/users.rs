//! Who uses an image, and so must not lose it: machines, disks, and images that are being made from it.

use std::fmt;

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

use super::condition::{self, Type};
use super::crd::{
    APPS_GROUP, APPS_VERSION, ClusterVirtualImage, GROUP, Phase, VERSION, VirtualImage, VmDisk,
};
use super::image::{Image, ImageId, Kind};
use super::reconcile::claim_of;

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

/// Who uses `image` now; disks among them if they are ours, and are what we take them for.
pub(super) async fn of<I: Image>(
    client: &Client,
    image: &I,
    makes_disks: bool,
) -> Result<Vec<User>, kube::Error> {
    let id = image.id();
    let mut users = machines(client, image, &id).await?;
    users.extend(made_from::<VirtualImage>(client, &id).await?);
    users.extend(made_from::<ClusterVirtualImage>(client, &id).await?);
    if makes_disks {
        users.extend(made_from::<VmDisk>(client, &id).await?);
    }
    Ok(users)
}

/// Images that are being made from this one.
async fn made_from<I: Image>(client: &Client, id: &ImageId) -> Result<Vec<User>, kube::Error> {
    let all = match I::api(client, None).list(&ListParams::default()).await {
        // A cluster may have the definitions, or the roles, of an older version.
        Err(kube::Error::Api(error)) if matches!(error.code, 403 | 404) => return Ok(Vec::new()),
        all => all?,
    };
    let depends = |image: &I| {
        let status = image.status().cloned().unwrap_or_default();
        // Once it is ready it has its own copy, and before it is begun it can still do without.
        let is_begun = status.source_uid.as_deref() == Some(id.uid.as_str());
        let has_failed = status.phase == Some(Phase::Failed);
        is_begun
            && !has_failed
            && image.meta().deletion_timestamp.is_none()
            && !condition::holds(&status, Type::Ready)
    };
    Ok(all
        .items
        .iter()
        .filter(|image| depends(image))
        .map(|image| {
            let ImageId { kind, namespace, name, .. } = image.id();
            User { kind: kind.as_str().to_owned(), namespace, name }
        })
        .collect())
}

/// Machines that have the image as a disk: those of Deckhouse and of Cozystack by its name, those of KubeVirt by its address or its
/// claim.
async fn machines<I: Image>(client: &Client, image: &I, id: &ImageId) -> Result<Vec<User>, kube::Error> {
    let mut users = Vec::new();
    if id.kind == Kind::VmDisk {
        return of_disk(client, id).await;
    }
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
    for machine in list(client, "kubevirt.io", "v1", RUNNING, id).await? {
        let volumes = machine.data["spec"]["volumes"].as_array().into_iter().flatten();
        if volumes.into_iter().any(|volume: &Value| volume["containerDisk"]["image"] == url.as_str()) {
            users.push(user(RUNNING, machine));
        }
    }
    Ok(users)
}

/// What KubeVirt calls a machine that runs.
const RUNNING: &str = "VirtualMachineInstance";

/// A machine that runs with a disk, if there is one.
pub(super) async fn running(client: &Client, disk: &VmDisk) -> Result<Option<User>, kube::Error> {
    let users = of_disk(client, &disk.id()).await?;
    Ok(users.into_iter().find(|user| user.kind == RUNNING))
}

/// Machines that have a disk.
async fn of_disk(client: &Client, id: &ImageId) -> Result<Vec<User>, kube::Error> {
    let mut users = Vec::new();
    for machine in list(client, APPS_GROUP, APPS_VERSION, "VMInstance", id).await? {
        let disks = machine.data["spec"]["disks"].as_array().into_iter().flatten();
        // Some write the name alone.
        let name = |disk: &Value| disk.as_str().or(disk["name"].as_str()) == Some(id.name.as_str());
        if disks.into_iter().any(name) {
            users.push(user("VMInstance", machine));
        }
    }
    let claim = claim_of(id).name;
    for machine in list(client, "kubevirt.io", "v1", RUNNING, id).await? {
        let volumes = machine.data["spec"]["volumes"].as_array().into_iter().flatten();
        let has = |volume: &Value| {
            volume["persistentVolumeClaim"]["claimName"] == claim.as_str()
                || volume["dataVolume"]["name"] == claim.as_str()
        };
        if volumes.into_iter().any(has) {
            users.push(user(RUNNING, machine));
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
        (Some(namespace), Kind::VirtualImage | Kind::VmDisk) => {
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
        _ => Api::all_with(client.clone(), &resource),
    };
    match api.list(&ListParams::default()).await {
        Ok(found) => Ok(found.items),
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
