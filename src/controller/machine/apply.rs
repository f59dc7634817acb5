//! The objects of a machine, written to a cluster.
//!
//! The controller may write what a user who has nothing but a `VMInstance` may not. So it writes no object that was not made for this
//! very machine: one that is there is looked at first, and is written only as the object that it was then.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::{Map, Value, json};

use super::objects::{machine_name, objects};
use super::{Disks, virtual_machine};
use crate::controller::condition::Reason;
use crate::controller::context::FIELD_MANAGER;
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
        is_of(instance, found, "VirtualMachine")?;
        forget_revisions(&machines, found, &objects.machine).await?;
    }
    make_way(instance, client, &objects.service).await?;
    for object in [&objects.ssh_keys, &objects.cloud_init, &objects.service] {
        apply_one(instance, client, object).await?;
    }
    apply_one(instance, client, &objects.machine).await
}

/// Applies one object, unless there is one of this name that belongs to somebody else. A secret in which nothing is takes away what
/// was there; where none is, none is made.
async fn apply_one(
    instance: &VmInstance,
    client: &Client,
    object: &Value,
) -> Result<Option<DynamicObject>, Refused> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind, name) =
        (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let namespace = instance.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let (mut object, mut parameters) = (object.clone(), PatchParams::apply(FIELD_MANAGER));
    match api.get_opt(&name).await? {
        Some(found) => {
            is_of(instance, &found, &kind)?;
            // Another object, which has its name since then, is not written.
            object["metadata"]["uid"] = json!(found.uid());
            parameters = parameters.force();
        }
        None if object["data"].as_object().is_some_and(Map::is_empty) => return Ok(None),
        // Without force: one that somebody makes at this moment is in the way, and stays.
        None => {}
    }
    Ok(Some(api.patch(&name, &parameters, &Patch::Apply(object)).await?))
}

/// Whether an object was made for this machine.
fn is_of(instance: &VmInstance, object: &impl Resource, kind: &str) -> Result<(), Refused> {
    let owners = object.meta().owner_references.iter().flatten();
    if owners.into_iter().any(|owner| Some(&owner.uid) == instance.metadata.uid.as_ref()) {
        return Ok(());
    }
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
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = json!({ "metadata": { "uid": found.uid() }, "spec": changed });
        machines.patch(&found.name_any(), &parameters, &Patch::Merge(patch)).await?;
    }
    Ok(())
}

/// Removes a service of the other kind: one without an address cannot get one.
async fn make_way(instance: &VmInstance, client: &Client, wanted: &Value) -> Result<(), Refused> {
    let namespace = instance.namespace().unwrap_or_default();
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let Some(found) = services.get_opt(name).await? else { return Ok(()) };
    is_of(instance, &found, "Service")?;
    let kind = found.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    if found.metadata.deletion_timestamp.is_none() {
        if kind == wanted["spec"]["type"].as_str() {
            return Ok(());
        }
        let preconditions = Some(Preconditions { uid: found.uid(), resource_version: None });
        services.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() }).await?;
        if services.get_opt(name).await?.is_none() {
            return Ok(());
        }
    }
    Err(Refused {
        reason: Reason::ServiceReplaced,
        message: format!(
            "Service {namespace}/{name} is being deleted, and another one is made when it is gone"
        ),
    })
}
