//! What a `VMInstance` becomes in a cluster: for each `machines/NAME.yaml` the objects in `machines/NAME.objects.yaml`.
//!
//! `UPDATE=1 cargo test machines` writes those anew; a person reads the difference. That a real API server with the definitions of
//! KubeVirt takes them is for `conformance/tests/test_vm_instances.py`.

use std::path::{Path, PathBuf};

use dvcr::controller::crd::VmInstance;
use dvcr::controller::machine::{Attachment, InstanceType, check, objects};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/machines")
}

fn is_kept(path: &Path, made: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "{} is old: run UPDATE=1 cargo test machines", path.display());
}

/// Its disks, as they are when they are ready. What is called an installer is optical.
fn attached(instance: &VmInstance) -> Vec<Attachment> {
    let disks = instance.spec.disks.iter().map(|disk| (disk.name().unwrap(), disk.bus()));
    disks
        .map(|(name, bus)| Attachment {
            name: name.to_owned(),
            bus: bus.map(str::to_owned),
            optical: name == "installer",
            claim: format!("vm-disk-{name}"),
        })
        .collect()
}

#[test]
fn a_machine_becomes_the_objects_that_were_looked_at() {
    for case in ["production", "smallest", "everything", "by-numbers"] {
        let text = std::fs::read_to_string(folder().join(format!("{case}.yaml"))).unwrap();
        let instance: VmInstance = serde_saphyr::from_str(&text).unwrap();
        let made = objects(&instance, &attached(&instance), None, "cozy-proxy").unwrap();
        let documents = made.all().map(|object| serde_saphyr::to_string(object).unwrap());
        is_kept(&folder().join(format!("{case}.objects.yaml")), &documents.join("---\n"));
    }
}

#[test]
fn the_instance_types_in_deploy_are_those_of_the_table() {
    let documents = InstanceType::manifests().into_iter().map(|size| serde_saphyr::to_string(&size).unwrap());
    let made = format!(
        "# The series S, which KubeVirt does not bring. Made of src/controller/machine/instance_type.rs: UPDATE=1 cargo test machines\n{}",
        documents.collect::<Vec<_>>().join("---\n")
    );
    is_kept(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/instance-types.yaml"), &made);
}

fn instance(name: &str, spec: &Value) -> VmInstance {
    let object = json!({
        "apiVersion": "apps.cozystack.io/v1alpha1",
        "kind": "VMInstance",
        "metadata": { "name": name, "namespace": "a" },
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

#[test]
fn what_no_machine_can_be_made_of_is_said_in_a_sentence() {
    for (spec, said) in [
        (json!({ "disks": ["x", { "name": "x" }] }), "spec.disks[1]: x is there twice"),
        (json!({ "disks": [5] }), "spec.disks[0] is neither the name of a VMDisk"),
        (json!({ "disks": ["x.y"] }), "spec.disks[0]: \"x.y\" is no name of a disk"),
        (json!({ "disks": [{ "name": "x", "bus": "ide" }] }), "\"ide\" is none of virtio, sata, scsi, usb"),
        (json!({ "externalPorts": [22, 22] }), "a port is there twice"),
        (json!({ "running": true, "runStrategy": "Once" }), "give one of them"),
        (json!({ "networks": [{ "name": "default" }] }), "\"default\" is no name of a further network"),
        (json!({ "instanceType": "" }), "a machine has an instanceType, or resources"),
        (json!({ "resources": { "cpu": 2 } }), "only together"),
        (json!({ "resources": { "cpu": 2, "sockets": 1, "memory": "much" } }), "spec.resources.memory"),
    ] {
        let error = check(&instance("x", &spec)).unwrap_err();
        assert!(error.contains(said), "{spec}: {error}");
    }
    for name in ["x".repeat(52), "a.b".to_owned()] {
        assert!(check(&instance(&name, &json!({}))).unwrap_err().starts_with("metadata.name"), "{name}");
    }
}

#[test]
fn a_machine_keeps_the_uuid_that_it_has_until_its_seed_says_otherwise() {
    let uuid = |spec: Value, old| {
        let made = objects(&instance("x", &spec), &[], old, "").unwrap().machine;
        made["spec"]["template"]["spec"]["domain"]["firmware"]["uuid"].as_str().unwrap().to_owned()
    };
    let first = uuid(json!({}), None);
    assert_eq!(uuid(json!({}), Some("kept")), "kept");
    let seeded = uuid(json!({ "cloudInitSeed": "1" }), Some(&first));
    assert_ne!(seeded, first);
    assert_ne!(uuid(json!({ "cloudInitSeed": "2" }), Some(&seeded)), seeded);
}

#[test]
fn numbers_are_whole_however_they_are_written_and_what_is_none_hides_nothing_else() {
    let spec =
        json!({ "externalPorts": [22.0, 2.2e3], "resources": { "cpu": 2.0, "sockets": 1, "memory": "1Gi" } });
    let machine = instance("x", &spec);
    assert_eq!(machine.spec.external_ports, [22, 2200]);
    assert_eq!(check(&machine), Ok(()));
    for none in [json!([22.5]), json!(["22"]), json!([1e300]), json!([-22])] {
        let machine = instance("x", &json!({ "externalPorts": none }));
        assert!(check(&machine).unwrap_err().ends_with("is no port"), "{none}");
    }
}

#[test]
fn where_there_is_no_proxy_of_cozystack_the_cluster_leads_to_the_machine() {
    let machine = instance("x", &json!({ "external": true }));
    let label = |proxy| {
        let service = objects(&machine, &[], None, proxy).unwrap().service;
        service["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"].clone()
    };
    assert_eq!((label("cozy-proxy"), label("")), (json!("cozy-proxy"), Value::Null));
}

#[test]
fn a_wrong_instance_type_is_answered_with_the_nearest() {
    let size = |name: &str| {
        dvcr::controller::machine::size_of(&instance("x", &json!({ "instanceType": name })).spec)
    };
    assert_eq!(size("s1.3large"), Ok((12, 24 << 30)));
    assert_eq!(
        size("u1.2xlarg").unwrap_err(),
        "there is no instance type u1.2xlarg in the table; did you mean u1.2xlarge?"
    );
}
