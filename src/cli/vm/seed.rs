//! The seed: what cloud-init finds on a small disk of its own, by the NoCloud data source.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::cli::Failure;
use crate::controller::crd::VmInstance;
use crate::controller::machine::{machine_name, user_data, uuid};

/// The name by which cloud-init knows a disk with a seed.
pub(super) const LABEL: &str = "CIDATA";

/// Writes the seed of a machine into a folder that goes when it is dropped; `None`: cloud-init is told nothing.
pub(super) fn write(instance: &VmInstance) -> Result<Option<TempDir>, Failure> {
    let Some(user_data) = user_data(&instance.spec) else { return Ok(None) };
    let failed = |error: &std::io::Error| Failure::because("cannot write what cloud-init is told", error);
    // Only its owner reads it: there may be passwords in it.
    let folder = tempfile::Builder::new().prefix("dvcr-seed-").tempdir().map_err(|error| failed(&error))?;
    for (name, text) in [("user-data", user_data), ("meta-data", meta_data(instance))] {
        put(&folder.path().join(name), &text).map_err(|error| failed(&error))?;
    }
    Ok(Some(folder))
}

/// Who the machine is. JSON is YAML too.
fn meta_data(instance: &VmInstance) -> String {
    let name = instance.metadata.name.as_deref().unwrap_or_default();
    let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
    let spec = &instance.spec;
    json!({
        "instance-id": uuid(namespace, &machine_name(name), &spec.cloud_init_seed),
        "local-hostname": name,
        "public-keys": spec.ssh_keys,
    })
    .to_string()
}

fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(spec: &serde_json::Value) -> VmInstance {
        serde_json::from_value(json!({
            "apiVersion": "apps.cozystack.io/v1alpha1",
            "kind": "VMInstance",
            "metadata": { "name": "web", "namespace": "a" },
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_seed_says_who_the_machine_is_and_what_it_is_to_do() {
        let spec =
            json!({ "cloudInit": "#cloud-config\npackages: [htop]\n", "sshKeys": ["ssh-ed25519 AAAA x"] });
        let folder = write(&instance(&spec)).unwrap().unwrap();
        let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("user-data"), "#cloud-config\npackages: [htop]\n");
        let meta: serde_json::Value = serde_json::from_str(&read("meta-data")).unwrap();
        assert_eq!(meta["local-hostname"], "web");
        assert_eq!(meta["public-keys"], json!(["ssh-ed25519 AAAA x"]));
    }

    #[test]
    fn where_nothing_is_said_there_is_no_seed() {
        assert!(write(&instance(&json!({}))).unwrap().is_none());
    }

    #[test]
    fn another_seed_is_another_machine_to_cloud_init() {
        let id = |seed: &str| meta_data(&instance(&json!({ "cloudInitSeed": seed })));
        assert_eq!(id("a"), id("a"));
        assert_ne!(id("a"), id("b"));
    }
}
