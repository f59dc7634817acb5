//! Machines: a `VMInstance` becomes objects of KubeVirt, once its disks are ready.
//!
//! In a cluster the objects are applied as the spec says them, and go with the `VMInstance`, which owns them: nothing is to be
//! cleaned up. What KubeVirt says of the machine is the phase. Where there is no cluster the disks alone are seen to, and
//! `dvcr vm run` runs the machine.
//!
//! A machine is begun when all of its disks are ready: one that boots from a disk that is still being written would find nothing to
//! boot, or half of it. Once begun, it is KubeVirt's.

mod instance_type;
mod objects;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

pub use instance_type::InstanceType;
pub use objects::{Attachment, Objects, check, machine_name, objects, size_of, user_data, uuid};

use super::condition::{self, Reason, Said};
use super::context::{Context, FIELD_MANAGER};
use super::crd::{VmDisk, VmInstance, VmInstanceStatus};
use super::image::Image as _;
use super::reconcile::{ReconcileError, claim_of};

/// How soon it is looked again for what a machine waits for.
const WAITING: Duration = Duration::from_secs(2);

/// How soon it is looked again where nothing is waited for: for what nobody tells of.
const AT_REST: Duration = Duration::from_mins(1);

/// All disks can be attached.
const DISKS_READY: &str = "DisksReady";

/// The objects are as the spec says.
const APPLIED: &str = "Applied";

/// Who runs machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machines {
    /// KubeVirt, in a cluster.
    KubeVirt,
    /// `dvcr vm run`, on this machine.
    Command,
    /// Somebody else: `VMInstance` resources are not ours.
    NotOurs,
}

/// The `VirtualMachine` of KubeVirt.
#[must_use]
pub(super) fn virtual_machine() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachine"))
}

/// Whether an API server has machines of KubeVirt.
pub(super) async fn has_kubevirt(client: &Client) -> bool {
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &virtual_machine());
    all.list(&kube::api::ListParams::default().limit(1)).await.is_ok()
}

/// Takes one machine one step further.
pub(super) async fn reconcile(
    instance: Arc<VmInstance>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    if instance.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let mut status = instance.status.clone().unwrap_or_default();
    status.observed_generation = instance.metadata.generation;
    let wait = step(&instance, &context, &mut status).await?;
    if instance.status.as_ref() != Some(&status) {
        let namespace = instance.namespace().unwrap_or_default();
        let patch = json!({
            "metadata": { "uid": instance.metadata.uid, "resourceVersion": instance.metadata.resource_version },
            "status": status,
        });
        let api: Api<VmInstance> = Api::namespaced(context.client.clone(), &namespace);
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        api.patch_status(&instance.name_any(), &parameters, &Patch::Merge(patch)).await?;
    }
    Ok(Action::requeue(wait))
}

/// What a machine has come to, and when to look again.
async fn step(
    instance: &VmInstance,
    context: &Context,
    status: &mut VmInstanceStatus,
) -> Result<Duration, ReconcileError> {
    if let Err(message) = check(instance) {
        "Failed".clone_into(&mut status.phase);
        say(status, APPLIED, Said::no(Reason::InvalidSpec, format!("{message}. Correct the spec.")));
        return Ok(AT_REST);
    }
    let attached = match attach(instance, context).await? {
        Ok(attached) => attached,
        Err(said) => {
            say(status, DISKS_READY, said);
            if status.virtual_machine.is_none() {
                "Pending".clone_into(&mut status.phase);
                say(
                    status,
                    APPLIED,
                    Said::no(Reason::DiskNotReady, "the machine is made when its disks are ready"),
                );
            }
            return Ok(WAITING);
        }
    };
    say(status, DISKS_READY, Said::yes(Reason::Ready));
    if context.machines != Machines::KubeVirt {
        status.conditions.retain(|condition| condition.type_ != APPLIED);
        "Stopped".clone_into(&mut status.phase);
        return Ok(AT_REST);
    }
    match apply(instance, context, &attached).await {
        Ok(machine) => {
            status.virtual_machine = Some(machine.name_any());
            let said = machine.data["status"]["printableStatus"].as_str().unwrap_or("Provisioning");
            said.clone_into(&mut status.phase);
            say(status, APPLIED, Said::yes(Reason::Ready));
            Ok(AT_REST)
        }
        Err(ApplyError::Refused { reason, message }) => {
            if status.virtual_machine.is_none() {
                "Pending".clone_into(&mut status.phase);
            }
            say(status, APPLIED, Said::no(reason, message));
            Ok(WAITING)
        }
        Err(ApplyError::Kube(error)) => Err(error.into()),
    }
}

fn say(status: &mut VmInstanceStatus, kind: &str, said: Said) {
    condition::set_in(&mut status.conditions, kind, status.observed_generation, said);
}

/// The disks of a machine, or why not all of them can be attached.
async fn attach(
    instance: &VmInstance,
    context: &Context,
) -> Result<Result<Vec<Attachment>, Said>, kube::Error> {
    let namespace = instance.namespace().unwrap_or_default();
    let disks: Api<VmDisk> = Api::namespaced(context.client.clone(), &namespace);
    let (mut attached, mut missing) = (Vec::new(), Vec::new());
    for wanted in &instance.spec.disks {
        let name = wanted.name().unwrap_or_default();
        match disks.get_opt(name).await? {
            Some(disk) if disk.is_ready() => attached.push(Attachment {
                name: name.to_owned(),
                bus: wanted.bus().map(str::to_owned),
                optical: disk.spec.optical,
                claim: claim_of(&disk.id()).name,
            }),
            Some(disk) => {
                let status = disk.status.unwrap_or_default();
                let phase = status.phase.unwrap_or_default().as_str();
                let progress = status.progress.map(|progress| format!(" ({progress})")).unwrap_or_default();
                missing.push(format!("VMDisk {namespace}/{name} is {phase}{progress}"));
            }
            None => missing.push(format!("there is no VMDisk {namespace}/{name}")),
        }
    }
    if missing.is_empty() {
        return Ok(Ok(attached));
    }
    Ok(Err(Said::no(Reason::DiskNotReady, missing.join("; "))))
}

/// Why objects could not be applied.
enum ApplyError {
    /// It is of no use to try again at once.
    Refused { reason: Reason, message: String },
    /// The API server.
    Kube(kube::Error),
}

impl From<kube::Error> for ApplyError {
    fn from(error: kube::Error) -> Self {
        match &error {
            // What the API server or KubeVirt will not have is for the user to know.
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
                Self::Refused { reason: Reason::MachineRefused, message: status.message.clone() }
            }
            _ => Self::Kube(error),
        }
    }
}

/// Applies the objects of a machine, and gives the machine.
async fn apply(
    instance: &VmInstance,
    context: &Context,
    disks: &[Attachment],
) -> Result<DynamicObject, ApplyError> {
    let namespace = instance.namespace().unwrap_or_default();
    let name = machine_name(&instance.name_any());
    let machines: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &namespace, &virtual_machine());
    let found = match machines.get_opt(&name).await {
        Err(kube::Error::Api(error)) if error.code == 404 => {
            return Err(ApplyError::Refused {
                reason: Reason::KubeVirtNotFound,
                message: "this cluster has no KubeVirt, which runs machines".to_owned(),
            });
        }
        found => found?,
    };
    let firmware = found.as_ref().and_then(|machine| {
        machine.data["spec"]["template"]["spec"]["domain"]["firmware"]["uuid"].as_str().map(str::to_owned)
    });
    let objects = objects(instance, disks, firmware.as_deref())
        .map_err(|message| ApplyError::Refused { reason: Reason::InvalidSpec, message })?;
    if let Some(found) = &found {
        mine(instance, found)?;
        forget_revisions(&machines, found, &objects.machine).await?;
    }
    make_way(instance, context, &objects.service).await?;
    for object in [&objects.ssh_keys, &objects.cloud_init, &objects.service] {
        apply_one(instance, context, object).await?;
    }
    let applied = apply_one(instance, context, &objects.machine).await?;
    Ok(applied.unwrap_or_else(|| DynamicObject::new(&name, &virtual_machine())))
}

/// Applies one object, unless there is one of this name that belongs to somebody else. A secret in which nothing is takes away what
/// was there; where none is, none is made.
async fn apply_one(
    instance: &VmInstance,
    context: &Context,
    object: &Value,
) -> Result<Option<DynamicObject>, ApplyError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind, name) =
        (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let namespace = instance.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &resource);
    match api.get_opt(&name).await? {
        Some(found) => mine(instance, &found)?,
        None if object["data"].as_object().is_some_and(serde_json::Map::is_empty) => return Ok(None),
        None => {}
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    Ok(Some(api.patch(&name, &parameters, &Patch::Apply(object)).await?))
}

/// Whether an object was made for this machine.
fn mine(instance: &VmInstance, object: &DynamicObject) -> Result<(), ApplyError> {
    let is_mine =
        object.owner_references().iter().any(|owner| Some(&owner.uid) == instance.metadata.uid.as_ref());
    if is_mine {
        return Ok(());
    }
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    Err(ApplyError::Refused {
        reason: Reason::NameTaken,
        message: format!(
            "{kind} {}/{} is there and is not of this VMInstance: delete it, or give the VMInstance another name",
            object.namespace().unwrap_or_default(),
            object.name_any()
        ),
    })
}

/// KubeVirt keeps the revision of an instance type with its name, and refuses another name with the old revision.
async fn forget_revisions(
    machines: &Api<DynamicObject>,
    found: &DynamicObject,
    wanted: &Value,
) -> Result<(), kube::Error> {
    let mut changed = serde_json::Map::new();
    for field in ["instancetype", "preference"] {
        let (old, new) = (&found.data["spec"][field], &wanted["spec"][field]);
        if old["revisionName"].is_string() && old["name"] != new["name"] {
            let entry = if new.is_null() {
                Value::Null
            } else {
                json!({ "name": new["name"], "revisionName": null })
            };
            changed.insert(field.to_owned(), entry);
        }
    }
    if !changed.is_empty() {
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        machines.patch(&found.name_any(), &parameters, &Patch::Merge(json!({ "spec": changed }))).await?;
    }
    Ok(())
}

/// Removes a service of the other kind: one without an address cannot get one.
async fn make_way(instance: &VmInstance, context: &Context, wanted: &Value) -> Result<(), ApplyError> {
    let namespace = instance.namespace().unwrap_or_default();
    let services: Api<Service> = Api::namespaced(context.client.clone(), &namespace);
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let Some(found) = services.get_opt(name).await? else { return Ok(()) };
    let kind = found.spec.as_ref().and_then(|spec| spec.type_.as_deref()).map(str::to_owned);
    let is_mine =
        found.owner_references().iter().any(|owner| Some(&owner.uid) == instance.metadata.uid.as_ref());
    if is_mine && kind.as_deref() != wanted["spec"]["type"].as_str() {
        match services.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(error)) if error.code == 404 => {}
            outcome => drop(outcome?),
        }
    }
    Ok(())
}
