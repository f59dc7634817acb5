//! `VMInstance`: a machine, as Cozystack and Hikube define it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::vm_disk::{Named, quantity_schema};

/// Describes a machine: its disks, its size, how it is reached, and what it is told when it boots first.
///
/// In a cluster it becomes a machine of KubeVirt. `dvcr vm run` runs one on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "apps.cozystack.io",
    version = "v1alpha1",
    kind = "VMInstance",
    root = "VmInstance",
    plural = "vminstances",
    singular = "vminstance",
    category = "virtualization",
    namespaced,
    status = "VmInstanceStatus",
    derive = "PartialEq",
    doc = "Describes a machine: its disks, its size, how it is reached, and what it is told when it boots first. In a cluster it becomes a machine of KubeVirt. `dvcr vm run` runs one on this machine.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.instanceType"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.instanceProfile"),
    printcolumn(name = "External", type_ = "boolean", json_path = ".spec.external", priority = 1),
    printcolumn(
        name = "VirtualMachine",
        type_ = "string",
        json_path = ".status.virtualMachine",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"False\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!(has(self.spec.running) && has(self.spec.runStrategy))")
        .message("running and runStrategy say the same thing: give one of them."),
    validation = Rule::new("!self.spec.external || self.spec.externalMethod == 'WholeIP' || size(self.spec.externalPorts) > 0")
        .message("With externalMethod PortList only the ports in externalPorts are reached from outside, and there are none: give some, or set external to false."),
)]
#[serde(rename_all = "camelCase")]
pub struct VmInstanceSpec {
    /// Whether the machine is reached from outside of the cluster.
    #[serde(default)]
    pub external: bool,
    #[allow(missing_docs)]
    #[serde(default)]
    pub external_method: ExternalMethod,
    /// TCP ports that are reached from outside.
    #[serde(default = "ssh_port", deserialize_with = "whole_numbers")]
    #[schemars(length(max = 1024), inner(range(min = 1, max = 65535)))]
    pub external_ports: Vec<i32>,
    /// Whether the machine answers pings from outside.
    #[serde(default = "yes", rename = "externalAllowICMP")]
    pub external_allow_icmp: bool,
    /// Whether the machine is to run. `true` is the run strategy `Always`, `false` is `Halted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    #[allow(missing_docs)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// How many processors and how much memory the machine has: the name of a `VirtualMachineClusterInstancetype`, such as `u1.medium`.
    #[serde(default = "universal")]
    pub instance_type: String,
    /// What the operating system prefers: the name of a `VirtualMachineClusterPreference`, such as `ubuntu`.
    #[serde(default = "ubuntu")]
    pub instance_profile: String,
    /// The disks, by the names of `VMDisk` resources of this namespace. The machine boots from the first of them that it can boot from.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub disks: Vec<AttachedDisk>,
    /// Networks that the machine is in besides that of pods: `NetworkAttachmentDefinition` resources of this namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub networks: Vec<Named>,
    /// An older name of `networks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub subnets: Vec<Named>,
    /// Graphics processors, by the names that the cluster gives them, such as `nvidia.com/AD102GL_L40S`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub gpus: Vec<Named>,
    /// The model of processor that the machine sees; empty: that of the instance type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpu_model: String,
    /// A size instead of an instance type: `cpu`, `sockets` and `memory`, all three.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Public keys of those who may log in, as in `authorized_keys`.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub ssh_keys: Vec<String>,
    /// User data for cloud-init, such as a document that begins with `#cloud-config`.
    #[serde(default)]
    pub cloud_init: String,
    /// A text that has cloud-init begin anew whenever it is changed.
    #[serde(default)]
    pub cloud_init_seed: String,
}

fn ssh_port() -> Vec<i32> {
    vec![22]
}

/// Ports also where they are written as `22.0`, which is an integer to the API. What is none is 0: one object that cannot be read
/// would hide all others from whoever lists them.
fn whole_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i32>, D::Error> {
    let numbers = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
    let whole = |number: &Value| i32::try_from(whole_number(number)?).ok();
    Ok(numbers.iter().map(|number| whole(number).unwrap_or_default()).collect())
}

/// A whole number, however it is written.
fn whole_number(number: &Value) -> Option<i64> {
    // Numbers of this size are exact in both forms.
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and small enough")]
    let whole = |float: f64| (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64);
    number.as_i64().or_else(|| whole(number.as_f64()?))
}

fn yes() -> bool {
    true
}

fn universal() -> String {
    "u1.medium".to_owned()
}

fn ubuntu() -> String {
    "ubuntu".to_owned()
}

/// How the machine is reached from outside:
///
/// * `PortList`: by the ports in `externalPorts`, and no other one.
/// * `WholeIP`: by all ports of an address of its own. Nothing is filtered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExternalMethod {
    #[allow(missing_docs)]
    #[default]
    PortList,
    #[allow(missing_docs)]
    #[serde(rename = "WholeIP")]
    WholeIp,
}

/// When the machine is to run:
///
/// * `Always`: whatever happens; the default.
/// * `Halted`: never.
/// * `Manual`: as `virtctl` is told.
/// * `RerunOnFailure`: until it is shut down from within.
/// * `Once`: once, however that ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum RunStrategy {
    #[default]
    Always,
    Halted,
    Manual,
    RerunOnFailure,
    Once,
}

impl VmInstanceSpec {
    /// When the machine is to run, by whichever field says it.
    #[must_use]
    pub fn strategy(&self) -> RunStrategy {
        match (self.run_strategy, self.running) {
            (Some(strategy), _) => strategy,
            (None, Some(false)) => RunStrategy::Halted,
            (None, Some(true) | None) => RunStrategy::Always,
        }
    }

    /// The further networks, by whichever field says it.
    #[must_use]
    pub fn other_networks(&self) -> &[Named] {
        if self.networks.is_empty() { &self.subnets } else { &self.networks }
    }
}

/// A disk of a machine: a name, or an object with `name` and `bus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttachedDisk {
    /// The name alone.
    Name(String),
    /// The name, and how the machine sees the disk.
    Attached {
        /// The `VMDisk`.
        name: String,
        /// `virtio`, `sata`, `scsi` or `usb`; none: what the profile prefers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bus: Option<String>,
    },
    /// No disk. One object that cannot be read would hide all others from whoever lists them.
    Other(Value),
}

impl AttachedDisk {
    /// The name of the `VMDisk`, if there is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) | Self::Attached { name, .. } => Some(name),
            Self::Other(_) => None,
        }
    }

    /// How the machine sees it, if that is said.
    #[must_use]
    pub fn bus(&self) -> Option<&str> {
        match self {
            Self::Attached { bus, .. } => bus.as_deref(),
            Self::Name(_) | Self::Other(_) => None,
        }
    }
}

impl JsonSchema for AttachedDisk {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AttachedDisk".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // A structural schema has no word for "a string or an object": without a type it takes both, and these limits hold for
        // whichever it is.
        schemars::json_schema!({
            "description": "The name of a VMDisk, or an object with the `name` of one and the `bus` by which the machine sees it.",
            "x-kubernetes-preserve-unknown-fields": true,
            "minLength": 1,
            "maxLength": 253,
            "properties": {
                "name": {
                    "type": "string",
                    "description": "The name of a VMDisk of this namespace.",
                    "minLength": 1,
                    "maxLength": 253,
                },
                "bus": {
                    "type": "string",
                    "description": "How the machine sees the disk; none: as the profile prefers.",
                    "enum": ["virtio", "sata", "scsi", "usb"],
                },
            },
            "required": ["name"],
        })
    }
}

/// A size of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Resources {
    /// Cores of each socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
    /// Sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Amount>,
    /// Memory, such as `4Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
}

impl Resources {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A quantity: a number, or a text such as `4Gi`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// A number.
    Number(u64),
    /// As Kubernetes writes quantities.
    Text(String),
    /// None of both; or a number that is written as `2.0`.
    Other(Value),
}

impl Amount {
    /// As a number, rounded up, unless it is none.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => crate::apimachinery::Quantity::parse(text)?.bytes(),
            Self::Other(other) => u64::try_from(whole_number(other)?).ok(),
        }
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        quantity_schema()
    }
}

/// What became of a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmInstanceStatus {
    /// The state of the machine in a word: `Pending` while it waits for its disks, `Failed` if its spec cannot be; then what KubeVirt
    /// says of it, such as `Provisioning`, `Starting`, `Running` or `Stopped`. Where there is no KubeVirt: `Stopped`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// The machine of KubeVirt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machine: Option<String>,
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Why it is so: `DisksReady`, and `Applied`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}
