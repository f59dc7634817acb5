//! From a `VMInstance` to the objects of a cluster: a `VirtualMachine` of KubeVirt, its `Service`, and its `Secret`s.
//!
//! A pure function. The objects have the names and fields that Cozystack gives them, so that what looks for those finds them. What
//! differs: a disk is a claim that a Job of ours fills, and no `DataVolume`, and so it is attached as a claim. And what Cozystack looks up
//! in its own cluster is not here: addresses of kube-ovn, and nodes for Windows.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::instance_type::InstanceType;
use crate::apimachinery::name::is_dns1123_label;
use crate::controller::crd::{Amount, ExternalMethod, VmInstance, VmInstanceSpec};
use crate::controller::nearest::nearest;
use crate::oci::{Algorithm, Digest};

/// A disk as a machine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The `VMDisk`.
    pub name: String,
    /// How the machine sees it, if that is said.
    pub bus: Option<String>,
    /// The machine sees it as a CD-ROM.
    pub optical: bool,
    /// The claim in which the disk is.
    pub claim: String,
}

/// What a `VMInstance` becomes, in the order in which it is to be written: a machine finds its secrets when it begins. A secret in
/// which nothing is need not be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// Public keys of those who may log in; empty, if there are none.
    pub ssh_keys: Value,
    /// User data for cloud-init; empty, if there is none.
    pub cloud_init: Value,
    /// How the machine is reached.
    pub service: Value,
    /// The machine.
    pub machine: Value,
}

impl Objects {
    /// All of them, in their order.
    #[must_use]
    pub fn all(&self) -> [&Value; 4] {
        [&self.ssh_keys, &self.cloud_init, &self.service, &self.machine]
    }
}

/// The buses by which a machine of KubeVirt has disks.
const BUSES: [&str; 4] = ["virtio", "sata", "scsi", "usb"];

/// The port of a service that is there for its name alone.
const NO_PORT: u16 = 65535;

/// Characters of the name of a service, or of a disk of a machine.
const LONGEST_LABEL: usize = 63;

/// What a machine's objects are called.
#[must_use]
pub fn machine_name(name: &str) -> String {
    format!("vm-instance-{name}")
}

/// Whether a machine can be made of this, whatever its disks are; the error is a sentence for whoever wrote it.
pub fn check(instance: &VmInstance) -> Result<(), String> {
    let spec = &instance.spec;
    let name = instance.metadata.name.as_deref().unwrap_or_default();
    let full = machine_name(name);
    if full.len() > LONGEST_LABEL || !is_dns1123_label(name).is_empty() {
        return Err(format!(
            "metadata.name: the machine is called {full}, which has to be one of at most {LONGEST_LABEL} characters, without a dot"
        ));
    }
    let mut names = BTreeSet::new();
    for (index, disk) in spec.disks.iter().enumerate() {
        let Some(name) = disk.name() else {
            return Err(format!(
                "spec.disks[{index}] is neither the name of a VMDisk nor an object with its `name` and a `bus`"
            ));
        };
        if volume_name(name).len() > LONGEST_LABEL || !is_dns1123_label(name).is_empty() {
            return Err(format!(
                "spec.disks[{index}]: {name:?} is no name of a disk that a machine can have"
            ));
        }
        if !names.insert(name) {
            return Err(format!("spec.disks[{index}]: {name} is there twice"));
        }
        if let Some(bus) = disk.bus()
            && !BUSES.contains(&bus)
        {
            return Err(format!("spec.disks[{index}].bus: {bus:?} is none of {}", BUSES.join(", ")));
        }
    }
    if let Some(port) = spec.external_ports.iter().find(|port| !(1..=65535).contains(*port)) {
        return Err(format!("spec.externalPorts: {port} is no port"));
    }
    let ports: BTreeSet<_> = spec.external_ports.iter().collect();
    if ports.len() < spec.external_ports.len() {
        return Err("spec.externalPorts: a port is there twice".to_owned());
    }
    if spec.running.is_some() && spec.run_strategy.is_some() {
        return Err("spec: running and runStrategy say the same thing: give one of them".to_owned());
    }
    for network in spec.other_networks() {
        if network.name == DEFAULT_NETWORK || !is_dns1123_label(&network.name).is_empty() {
            return Err(format!("spec.networks: {:?} is no name of a further network", network.name));
        }
    }
    sized(spec)?;
    Ok(())
}

/// A size that is given in numbers.
struct Sized {
    cores: u64,
    sockets: u64,
    memory: Value,
}

/// The size in numbers, if there is one; otherwise the instance type says it.
fn sized(spec: &VmInstanceSpec) -> Result<Option<Sized>, String> {
    let resources = &spec.resources;
    let number = |amount: &Option<_>, field: &str| match amount {
        None => Ok(None),
        Some(amount) => match Amount::number(amount) {
            Some(number) if number > 0 => Ok(Some(number)),
            _ => Err(format!("spec.resources.{field} is no size that a machine can have")),
        },
    };
    let (cores, sockets) = (number(&resources.cpu, "cpu")?, number(&resources.sockets, "sockets")?);
    let memory = number(&resources.memory, "memory")?;
    match (cores, sockets, memory) {
        (Some(cores), Some(sockets), Some(_)) => {
            Ok(Some(Sized { cores, sockets, memory: json!(resources.memory) }))
        }
        (None, None, None) if !spec.instance_type.is_empty() => Ok(None),
        (None, None, None) => {
            Err("spec: a machine has an instanceType, or resources with cpu, sockets and memory".to_owned())
        }
        _ => Err("spec.resources: cpu, sockets and memory size a machine only together: give all three, or none and an instanceType"
            .to_owned()),
    }
}

/// Processors and bytes of memory of a machine, by its numbers or the table of instance types; the error is a sentence.
pub fn size_of(spec: &VmInstanceSpec) -> Result<(u64, u64), String> {
    if let Some(Sized { cores, sockets, .. }) = sized(spec)? {
        let memory = spec.resources.memory.as_ref().and_then(Amount::number);
        return Ok((cores.saturating_mul(sockets), memory.unwrap_or_default()));
    }
    let name = spec.instance_type.as_str();
    let Some(size) = InstanceType::find(name) else {
        let meant = nearest(name, InstanceType::all().map(|size| size.name));
        let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        return Err(format!("there is no instance type {name} in the table{meant}"));
    };
    Ok((size.cpus.into(), u64::from(size.memory_gib) << 30))
}

/// The network of pods.
const DEFAULT_NETWORK: &str = "default";

fn volume_name(disk: &str) -> String {
    format!("disk-{disk}")
}

/// The objects of a machine that [`check`] finds nothing wrong with. `firmware` is the UUID that its machine has by now;
/// `service_proxy` says whose load balancer leads to it, and is empty for that of the cluster.
pub fn objects(
    instance: &VmInstance,
    disks: &[Attachment],
    firmware: Option<&str>,
    service_proxy: &str,
) -> Result<Objects, String> {
    check(instance)?;
    let name = machine_name(instance.metadata.name.as_deref().unwrap_or_default());
    let spec = &instance.spec;
    let keys = spec.ssh_keys.iter().enumerate().map(|(index, key)| (format!("key{index}"), key.as_str()));
    let keys: BTreeMap<_, _> = keys.collect();
    let user_data = user_data(spec);
    let user_data: BTreeMap<_, _> =
        user_data.iter().map(|text| ("userdata".to_owned(), text.as_str())).collect();
    Ok(Objects {
        ssh_keys: secret(instance, &name, "ssh-keys", &keys),
        cloud_init: secret(instance, &name, "cloud-init", &user_data),
        service: service(instance, &name, service_proxy),
        machine: machine(instance, &name, disks, firmware)?,
    })
}

/// What cloud-init is told, if anything is. With keys alone it needs a document to begin with.
#[must_use]
pub fn user_data(spec: &VmInstanceSpec) -> Option<String> {
    if !spec.cloud_init.is_empty() {
        return Some(spec.cloud_init.clone());
    }
    (!spec.ssh_keys.is_empty()).then(|| "#cloud-config\n".to_owned())
}

fn metadata(instance: &VmInstance, name: &str, more: &[(&str, &str)]) -> Value {
    let mut labels = selector(name);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), json!("dvcr"));
    labels.extend(more.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
    json!({
        "name": name,
        "namespace": instance.metadata.namespace,
        "labels": labels,
        "ownerReferences": [{
            "apiVersion": "apps.cozystack.io/v1alpha1",
            "kind": "VMInstance",
            "name": instance.metadata.name,
            "uid": instance.metadata.uid,
            "controller": true,
        }],
    })
}

fn selector(name: &str) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert("app.kubernetes.io/name".to_owned(), json!("vm-instance"));
    labels.insert("app.kubernetes.io/instance".to_owned(), json!(name));
    labels
}

fn secret(instance: &VmInstance, name: &str, what: &str, data: &BTreeMap<String, &str>) -> Value {
    let data: BTreeMap<_, _> = data.iter().map(|(key, text)| (key, BASE64.encode(text))).collect();
    let mut metadata = metadata(instance, name, &[]);
    metadata["name"] = json!(format!("{name}-{what}"));
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data })
}

fn service(instance: &VmInstance, name: &str, proxy: &str) -> Value {
    let spec = &instance.spec;
    let user = ("apps.cozystack.io/user-service", "true");
    let nothing = json!([{ "port": NO_PORT }]);
    if !spec.external {
        // For the name of the machine.
        return json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(instance, name, &[user]),
            "spec": { "type": "ClusterIP", "clusterIP": "None", "selector": selector(name), "ports": nothing },
        });
    }
    let mut labels = vec![user];
    if !proxy.is_empty() {
        labels.push(("service.kubernetes.io/service-proxy-name", proxy));
    }
    let mut metadata = metadata(instance, name, &labels);
    let whole = spec.external_method == ExternalMethod::WholeIp;
    metadata["annotations"] = json!({
        "networking.cozystack.io/wholeIP": whole.to_string(),
        "networking.cozystack.io/allowICMP": spec.external_allow_icmp.to_string(),
    });
    let ports: Vec<_> = spec
        .external_ports
        .iter()
        .map(|port| json!({ "name": format!("port-{port}"), "port": port, "targetPort": port }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": selector(name),
            "ports": if ports.is_empty() { nothing } else { json!(ports) },
        },
    })
}

fn machine(
    instance: &VmInstance,
    name: &str,
    disks: &[Attachment],
    firmware: Option<&str>,
) -> Result<Value, String> {
    let spec = &instance.spec;
    let sized = sized(spec)?;
    let mut made = Map::new();
    made.insert("runStrategy".to_owned(), json!(spec.strategy()));
    if sized.is_none() {
        let kind = "VirtualMachineClusterInstancetype";
        made.insert("instancetype".to_owned(), json!({ "kind": kind, "name": spec.instance_type }));
    }
    if !spec.instance_profile.is_empty() {
        let kind = "VirtualMachineClusterPreference";
        made.insert("preference".to_owned(), json!({ "kind": kind, "name": spec.instance_profile }));
    }
    let template = json!({
        "metadata": {
            "annotations": { "kubevirt.io/allow-pod-bridge-network-live-migration": "true" },
            "labels": selector(name),
        },
        "spec": pod(instance, name, disks, sized, firmware),
    });
    made.insert("template".to_owned(), template);
    Ok(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": metadata(instance, name, &[]),
        "spec": made,
    }))
}

/// What runs: the `spec` of the template.
fn pod(
    instance: &VmInstance,
    name: &str,
    disks: &[Attachment],
    sized: Option<Sized>,
    firmware: Option<&str>,
) -> Value {
    let spec = &instance.spec;
    let mut devices: Vec<_> = (1_u32..).zip(disks).map(|(order, disk)| device(disk, order)).collect();
    let mut volumes: Vec<_> = disks
        .iter()
        .map(|disk| {
            json!({ "name": volume_name(&disk.name), "persistentVolumeClaim": { "claimName": disk.claim } })
        })
        .collect();
    if user_data(spec).is_some() {
        devices.push(json!({ "name": "cloudinitdisk", "disk": {} }));
        let secret = json!({ "name": format!("{name}-cloud-init") });
        volumes.push(json!({ "name": "cloudinitdisk", "cloudInitNoCloud": { "secretRef": secret } }));
    }
    let (mut interfaces, mut networks) = (
        vec![json!({ "name": DEFAULT_NETWORK, "bridge": {} })],
        vec![json!({ "name": DEFAULT_NETWORK, "pod": {} })],
    );
    let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
    for network in spec.other_networks() {
        interfaces.push(json!({ "name": network.name, "bridge": {} }));
        let full = format!("{namespace}/{}", network.name);
        networks.push(json!({ "name": network.name, "multus": { "networkName": full } }));
    }
    let mut all = json!({ "disks": devices, "interfaces": interfaces });
    if !spec.gpus.is_empty() {
        let gpus = (1_u32..).zip(&spec.gpus);
        let gpus: Vec<_> = gpus
            .map(|(number, gpu)| json!({ "name": format!("gpu{number}"), "deviceName": gpu.name }))
            .collect();
        all["gpus"] = json!(gpus);
    }
    let uuid = match firmware {
        Some(firmware) if spec.cloud_init_seed.is_empty() => firmware.to_owned(),
        _ => uuid(namespace, name, &spec.cloud_init_seed),
    };
    let mut domain = json!({ "devices": all, "firmware": { "uuid": uuid } });
    let mut cpu = Map::new();
    if let Some(Sized { cores, sockets, memory }) = sized {
        cpu.insert("cores".to_owned(), json!(cores));
        cpu.insert("sockets".to_owned(), json!(sockets));
        domain["resources"] = json!({ "requests": { "memory": memory } });
    }
    if !spec.cpu_model.is_empty() {
        cpu.insert("model".to_owned(), json!(spec.cpu_model));
    }
    if !cpu.is_empty() {
        domain["cpu"] = json!(cpu);
    }
    let mut pod = json!({
        "domain": domain,
        "terminationGracePeriodSeconds": 30,
        "networks": networks,
        "volumes": volumes,
    });
    if !spec.ssh_keys.is_empty() {
        let source = json!({ "secret": { "secretName": format!("{name}-ssh-keys") } });
        pod["accessCredentials"] =
            json!([{ "sshPublicKey": { "source": source, "propagationMethod": { "noCloud": {} } } }]);
    }
    pod
}

fn device(disk: &Attachment, order: u32) -> Value {
    let how = disk.bus.as_ref().map_or_else(|| json!({}), |bus| json!({ "bus": bus }));
    let kind = if disk.optical { "cdrom" } else { "disk" };
    json!({ "name": volume_name(&disk.name), kind: how, "bootOrder": order })
}

/// The UUID by which cloud-init knows a machine: another one has it begin anew. By Cozystack's rule, so that a machine keeps its own.
#[must_use]
pub fn uuid(namespace: &str, name: &str, seed: &str) -> String {
    let hash = Digest::of(Algorithm::Sha256, format!("{namespace}-{name}-{seed}").as_bytes());
    let part = |from: usize, to: usize| hash.hex().get(from..to).unwrap_or_default();
    format!("{}-{}-4{}-9{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}
