//! [`InstanceType`]: the sizes that machines have by name, as Hikube's table has them.
//!
//! KubeVirt brings those of the series U and M itself. `deploy/instance-types.yaml` has the series S, made of this table.

use serde::Serialize;
use serde_json::{Value, json};

/// A size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceType {
    /// What it is called: a series, and a size in it.
    pub name: &'static str,
    /// Processors that the machine sees.
    pub cpus: u32,
    /// GiB of memory.
    pub memory_gib: u32,
}

const fn size(name: &'static str, cpus: u32, memory_gib: u32) -> InstanceType {
    InstanceType { name, cpus, memory_gib }
}

/// Two GiB for each processor, which others may have a share in.
const STANDARD: [InstanceType; 9] = [
    size("s1.small", 1, 2),
    size("s1.medium", 2, 4),
    size("s1.large", 4, 8),
    size("s1.xlarge", 8, 16),
    size("s1.3large", 12, 24),
    size("s1.2xlarge", 16, 32),
    size("s1.3xlarge", 24, 48),
    size("s1.4xlarge", 32, 64),
    size("s1.8xlarge", 64, 128),
];

/// Four GiB for each processor.
const UNIVERSAL: [InstanceType; 6] = [
    size("u1.medium", 1, 4),
    size("u1.large", 2, 8),
    size("u1.xlarge", 4, 16),
    size("u1.2xlarge", 8, 32),
    size("u1.4xlarge", 16, 64),
    size("u1.8xlarge", 32, 128),
];

/// Eight GiB for each processor.
const MEMORY: [InstanceType; 5] = [
    size("m1.large", 2, 16),
    size("m1.xlarge", 4, 32),
    size("m1.2xlarge", 8, 64),
    size("m1.4xlarge", 16, 128),
    size("m1.8xlarge", 32, 256),
];

impl InstanceType {
    /// All sizes, series by series.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        STANDARD.iter().chain(&UNIVERSAL).chain(&MEMORY)
    }

    /// The size of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        Self::all().find(|size| size.name == name)
    }

    /// The sizes that KubeVirt does not bring, as objects of a cluster.
    #[must_use]
    pub fn manifests() -> Vec<Value> {
        STANDARD
            .iter()
            .map(|size| {
                json!({
                    "apiVersion": "instancetype.kubevirt.io/v1beta1",
                    "kind": "VirtualMachineClusterInstancetype",
                    "metadata": { "name": size.name },
                    "spec": {
                        "cpu": { "guest": size.cpus },
                        "memory": { "guest": format!("{}Gi", size.memory_gib) },
                    },
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_series_is_as_many_gib_for_each_processor() {
        for size in InstanceType::all() {
            let ratio = match size.name.as_bytes()[0] {
                b's' => 2,
                b'u' => 4,
                _ => 8,
            };
            assert_eq!(size.memory_gib, size.cpus * ratio, "{}", size.name);
        }
        assert_eq!(InstanceType::find("u1.2xlarge").unwrap().cpus, 8);
        assert_eq!(InstanceType::find("u1"), None);
    }
}
