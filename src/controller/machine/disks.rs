//! The disks of a machine, as they are now.

use std::collections::BTreeSet;

use kube::{Api, Client, ResourceExt as _};

use super::objects::Attachment;
use crate::controller::condition::{Reason, Said};
use crate::controller::crd::{VmDisk, VmInstance};
use crate::controller::image::Image as _;
use crate::controller::reconcile::claim_of;

/// The disks of a machine that there are.
pub(super) struct Disks {
    all: Vec<(Attachment, bool)>,
    /// Which of them are waited for; `None`: all are there and ready.
    pub(super) said: Option<Said>,
}

impl Disks {
    /// Those that the machine can have: they are ready, or it has their claims already.
    pub(super) fn attachable(&self, claims: &BTreeSet<&str>) -> Vec<Attachment> {
        let can = |disk: &Attachment, is_ready| is_ready || claims.contains(disk.claim.as_str());
        self.all
            .iter()
            .filter(|(disk, is_ready)| can(disk, *is_ready))
            .map(|(disk, _)| disk.clone())
            .collect()
    }
}

/// Looks for the disks of a machine.
pub(super) async fn find(instance: &VmInstance, client: &Client) -> Result<Disks, kube::Error> {
    let namespace = instance.namespace().unwrap_or_default();
    let disks: Api<VmDisk> = Api::namespaced(client.clone(), &namespace);
    let (mut all, mut awaited) = (Vec::new(), Vec::new());
    for wanted in &instance.spec.disks {
        let name = wanted.name().unwrap_or_default();
        let Some(disk) = disks.get_opt(name).await? else {
            awaited.push(format!("there is no VMDisk {namespace}/{name}"));
            continue;
        };
        // One that is being deleted may be gone before the machine has it.
        let is_ready = disk.is_ready() && disk.metadata.deletion_timestamp.is_none();
        let attachment = Attachment {
            name: name.to_owned(),
            bus: wanted.bus().map(str::to_owned),
            optical: disk.spec.optical,
            claim: claim_of(&disk.id()).name,
        };
        if !is_ready {
            let phase = disk.status.unwrap_or_default().phase.unwrap_or_default();
            awaited.push(format!("VMDisk {namespace}/{name} is {}", phase.as_str()));
        }
        all.push((attachment, is_ready));
    }
    let said = (!awaited.is_empty()).then(|| Said::no(Reason::DiskNotReady, awaited.join("; ")));
    Ok(Disks { all, said })
}
