//! Machines: a `VMInstance` becomes objects of KubeVirt, once its disks are ready.
//!
//! In a cluster the objects are applied as the spec says them, and go with the `VMInstance`, which owns them: nothing is to be
//! cleaned up. What KubeVirt says of the machine is the phase. Where there is no cluster the disks alone are seen to, and
//! `dvcr vm run` runs the machine.
//!
//! A machine is begun when all of its disks are ready: one that boots from a disk that is still being written would find nothing to
//! boot, or half of it. Afterwards all else of its spec goes on to be applied, and a further disk is attached when it is ready.

mod apply;
mod disks;
mod instance_type;
mod objects;

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, ListParams, Patch};
use kube::core::GroupVersionKind;
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

pub use instance_type::InstanceType;
pub use objects::{Attachment, Objects, check, machine_name, objects, size_of, user_data, uuid};

use super::condition::{self, Reason, Said};
use super::context::{Context, patch_parameters};
use super::crd::{VmInstance, VmInstanceStatus};
use super::reconcile::ReconcileError;
use apply::Refused;
use disks::Disks;

/// How soon it is looked again for what a machine waits for.
const WAITING: Duration = Duration::from_secs(2);

/// How soon it is tried again to apply what was refused.
const REFUSED: Duration = Duration::from_secs(10);

/// How soon it is looked again where nothing is waited for: for what nobody tells of.
const AT_REST: Duration = Duration::from_mins(1);

/// All disks can be attached.
const DISKS_READY: &str = "DisksReady";

/// The objects are as the spec says.
const APPLIED: &str = "Applied";

/// Who runs machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machines {
    /// KubeVirt, in a cluster.
    KubeVirt {
        /// Whose load balancer leads to machines from outside, by the label `service.kubernetes.io/service-proxy-name`; empty: that of
        /// the cluster.
        service_proxy: String,
    },
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

/// Whether an API server has machines of KubeVirt, unless it says that it does not know them.
pub(super) async fn has_kubevirt(client: &Client) -> bool {
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &virtual_machine());
    !matches!(all.list(&ListParams::default().limit(1)).await, Err(kube::Error::Api(error)) if error.code == 404)
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
        api.patch_status(&instance.name_any(), &patch_parameters(), &Patch::Merge(patch)).await?;
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
    let disks = disks::find(instance, &context.client).await?;
    let is_waiting = disks.said.is_some();
    say(status, DISKS_READY, disks.said.clone().unwrap_or_else(|| Said::yes(Reason::Ready)));
    let Machines::KubeVirt { service_proxy } = &context.machines else {
        status.conditions.retain(|condition| condition.type_ != APPLIED);
        if is_waiting { "Pending" } else { "Stopped" }.clone_into(&mut status.phase);
        return Ok(if is_waiting { WAITING } else { AT_REST });
    };
    match apply::apply(instance, &context.client, &disks, service_proxy).await {
        Ok(Some(machine)) => {
            status.virtual_machine = Some(machine.name_any());
            let said = machine.data["status"]["printableStatus"].as_str().unwrap_or("Provisioning");
            said.clone_into(&mut status.phase);
            say(status, APPLIED, Said::yes(Reason::Ready));
            Ok(if is_waiting { WAITING } else { AT_REST })
        }
        Ok(None) => {
            "Pending".clone_into(&mut status.phase);
            status.virtual_machine = None;
            say(
                status,
                APPLIED,
                Said::no(Reason::DiskNotReady, "the machine is made when its disks are ready"),
            );
            Ok(WAITING)
        }
        Err(Refused { reason, message }) => {
            if status.virtual_machine.is_none() {
                "Pending".clone_into(&mut status.phase);
            }
            say(status, APPLIED, Said::no(reason, message));
            Ok(REFUSED)
        }
    }
}

fn say(status: &mut VmInstanceStatus, kind: &str, said: Said) {
    condition::set_in(&mut status.conditions, kind, status.observed_generation, said);
}
