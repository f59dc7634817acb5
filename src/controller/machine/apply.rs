//! The objects of a machine, written to a cluster.
//!
//! The controller may write what a user who has nothing but a `VMInstance` may not. So it writes no object that was not made for this
//! very machine: one that is there is looked at first, and is written only as the object that it was then.

use std::collections::BTreeSet;

use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Map, Value, json};

use super::objects::{machine_name, objects};
use super::{Disks, virtual_machine};
use crate::controller::condition::Reason;
use crate::controller::context::{FIELD_MANAGER, patch_parameters};
use crate::controller::crd::VmInstance;

/// Why objects are not as the spec says.
pub(super) struct Refused {
    pub(super) reason: Reason,
    /// In a sentence.
    pub(super) message: String,
}

impl From<kube::Error> for Refused {
    fn from(error: kube::Error) -> Self {
        let message = match error {
            // What the API server or KubeVirt will not have is for the user to know.
            kube::Error::Api(status) => status.message,
            error => format!("the API server: {error}"),
        };
        Self { reason: Reason::MachineRefused, message }
    }
}

/// Applies the objects of a machine, and gives the machine; `None`: it is not begun, for its disks are not ready.
pub(super) async fn apply(
    instance: &VmInstance,
    client: &Client,
    disks: &Disks,
    service_proxy: &str,
) -> Result<Option<DynamicObject>, Refused> {
    let namespace = instance.namespace().unwrap_or_default();
    let name = machine_name(&instance.name_any());
    let machines: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &virtual_machine());
    let found = match machines.get_opt(&name).await {
        // There is no such machine is what it would say where machines are known.
        Err(kube::Error::Api(error)) if error.code == 404 => {
            return Err(Refused {
                reason: Reason::KubeVirtNotFound,
                message: "this cluster has no KubeVirt, which runs machines".to_owned(),
            });
        }
        found => found?,
    };
    if found.is_none() && disks.said.is_some() {
        return Ok(None);
    }
    let spec = found.as_ref().map_or(&Value::Null, |machine| &machine.data["spec"]["template"]["spec"]);
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let claims: BTreeSet<_> =
        volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str()).collect();
    let firmware = spec["domain"]["firmware"]["uuid"].as_str();
    let objects = objects(instance, &disks.attachable(&claims), firmware, service_proxy)
        .map_err(|message| Refused { reason: Reason::InvalidSpec, message })?;
    if let Some(found) = &found {
        is_of(instance, found)?;
        forget_revisions(&machines, found, &objects.machine).await?;
    }
    for secret in [&objects.ssh_keys, &objects.cloud_init] {
        let api = api_of(client, &namespace, secret);
        let there = find(instance, &api, secret).await?;
        // One in which nothing is takes away what was there.
        if there.is_some() || secret["data"].as_object().is_some_and(|data| !data.is_empty()) {
            write(&api, secret, there.as_ref()).await?;
        }
    }
    let services = api_of(client, &namespace, &objects.service);
    let there = find(instance, &services, &objects.service).await?;
    let there = make_way(&services, there, &objects.service).await?;
    write(&services, &objects.service, there.as_ref()).await?;
    Ok(Some(write(&machines, &objects.machine, found.as_ref()).await?))
}

/// The objects of the kind of this one.
fn api_of(client: &Client, namespace: &str, object: &Value) -> Api<DynamicObject> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// The object of the name of this one, unless it belongs to somebody else.
async fn find(
    instance: &VmInstance,
    api: &Api<DynamicObject>,
    object: &Value,
) -> Result<Option<DynamicObject>, Refused> {
    let found = api.get_opt(object["metadata"]["name"].as_str().unwrap_or_default()).await?;
    found.map(|found| is_of(instance, &found).map(|()| found)).transpose()
}

/// Writes one object over what was found.
async fn write(
    api: &Api<DynamicObject>,
    object: &Value,
    found: Option<&DynamicObject>,
) -> Result<DynamicObject, kube::Error> {
    // Without force: one that somebody has made since then is in the way, and stays.
    let (mut object, mut parameters) = (object.clone(), PatchParams::apply(FIELD_MANAGER));
    if let Some(found) = found {
        // Another object, which has its name since then, is not written.
        object["metadata"]["uid"] = json!(found.uid());
        parameters = parameters.force();
    }
    api.patch(object["metadata"]["name"].as_str().unwrap_or_default(), &parameters, &Patch::Apply(&object))
        .await
}

/// Whether an object was made for this machine.
fn is_of(instance: &VmInstance, object: &DynamicObject) -> Result<(), Refused> {
    if object.owner_references().iter().any(|owner| Some(&owner.uid) == instance.metadata.uid.as_ref()) {
        return Ok(());
    }
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    Err(Refused {
        reason: Reason::NameTaken,
        message: format!(
            "{kind} {namespace}/{name} is there and is not of this VMInstance: delete it, or give the VMInstance another name"
        ),
    })
}

/// Takes out of a machine the revision of another instance type, or preference, which KubeVirt writes beside the name and refuses with
/// another one. Nothing is written here, only removed: what this owned besides what is applied, that could not take away later.
async fn forget_revisions(
    machines: &Api<DynamicObject>,
    found: &DynamicObject,
    wanted: &Value,
) -> Result<(), kube::Error> {
    let mut changed = Map::new();
    for field in ["instancetype", "preference"] {
        let old = &found.data["spec"][field];
        if old["revisionName"].is_string() && old["name"] != wanted["spec"][field]["name"] {
            changed.insert(field.to_owned(), json!({ "revisionName": null }));
        }
    }
    if !changed.is_empty() {
        let parameters = patch_parameters();
        let patch = json!({ "metadata": { "uid": found.uid() }, "spec": changed });
        machines.patch(&found.name_any(), &parameters, &Patch::Merge(patch)).await?;
    }
    Ok(())
}

/// Removes a service of the other kind: one without an address cannot get one. Gives that which may stay.
async fn make_way(
    services: &Api<DynamicObject>,
    found: Option<DynamicObject>,
    wanted: &Value,
) -> Result<Option<DynamicObject>, Refused> {
    let Some(found) = found else { return Ok(None) };
    let (namespace, name) = (found.namespace().unwrap_or_default(), found.name_any());
    if found.metadata.deletion_timestamp.is_none() {
        if found.data["spec"]["type"] == wanted["spec"]["type"] {
            return Ok(Some(found));
        }
        let preconditions = Some(Preconditions { uid: found.uid(), resource_version: None });
        services.delete(&name, &DeleteParams { preconditions, ..DeleteParams::default() }).await?;
        if services.get_opt(&name).await?.is_none() {
            return Ok(None);
        }
    }
    Err(Refused {
        reason: Reason::ServiceReplaced,
        message: format!(
            "Service {namespace}/{name} is being deleted, and another one is made when it is gone"
        ),
    })
}
