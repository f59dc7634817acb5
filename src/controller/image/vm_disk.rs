//! A `VMDisk` as an [`Image`].

use kube::{Api, Client};

use super::{Image, Kind, Origin, http};
use crate::apimachinery::name::is_dns1123_subdomain;
use crate::controller::crd::{ImageStatus, Named, ObjectRefKind, Storage, VmDisk};

impl Image for VmDisk {
    const KIND: Kind = Kind::VmDisk;
    const CLEANUP: &str = "dvcr.virtualization.deckhouse.io/vmdisk-cleanup";
    const HEALS: bool = false;

    fn api(client: &Client, namespace: Option<&str>) -> Api<Self> {
        match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }

    fn origin(&self) -> Result<Origin, String> {
        let source = &self.spec.source;
        let named = self.metadata.name.as_deref().unwrap_or_default();
        if named.len() > LONGEST_NAME {
            return Err(format!(
                "metadata.name has {} characters, and a disk may have {LONGEST_NAME}: its claim is called vm-disk-{named}",
                named.len()
            ));
        }
        for source in [&source.image, &source.disk, &source.virtual_image, &source.cluster_virtual_image] {
            if let Some(Named { name }) = source
                && !is_dns1123_subdomain(name).is_empty()
            {
                // Paths are made of it: none may lead anywhere else.
                return Err(format!("spec.source: {name:?} is no name that a resource can have"));
            }
        }
        if self.size().is_none_or(|size| size == 0) {
            return Err("spec.storage is no size that a disk can have, such as 20Gi".to_owned());
        }
        let namespace = || Some(self.metadata.namespace.clone().unwrap_or_default());
        let mut given = Vec::new();
        if let Some(spec) = &source.http {
            let file = http(Some(spec), "spec.source.http")?;
            given.push(Origin::Shared { file, spec: Box::new(spec.clone()) });
        }
        if let Some(image) = &source.image {
            given.push(Origin::Golden(image.name.clone()));
        }
        if source.upload.is_some() {
            given.push(Origin::Upload { checksums: Vec::new() });
        }
        if let Some(disk) = &source.disk {
            given.push(Origin::Disk(disk.name.clone()));
        }
        if let Some(image) = &source.virtual_image {
            let (kind, name) = (ObjectRefKind::VirtualImage, image.name.clone());
            given.push(Origin::Object { kind, namespace: namespace(), name });
        }
        if let Some(image) = &source.cluster_virtual_image {
            let (kind, name) = (ObjectRefKind::ClusterVirtualImage, image.name.clone());
            given.push(Origin::Object { kind, namespace: None, name });
        }
        if given.len() > 1 {
            return Err("spec.source: exactly one type of source is expected, or none".to_owned());
        }
        Ok(given.pop().unwrap_or(Origin::Empty))
    }

    fn storage(&self) -> Storage {
        Storage::PersistentVolumeClaim
    }

    fn storage_class(&self) -> Option<&str> {
        Some(&self.spec.storage_class)
    }

    fn size(&self) -> Option<u64> {
        self.spec.storage.bytes()
    }

    fn status(&self) -> Option<&ImageStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: ImageStatus) {
        self.status = Some(status);
    }
}

/// Characters of a disk's name: the name of its claim has eight more.
const LONGEST_NAME: usize = 245;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn disk(spec: &Value) -> VmDisk {
        let object = json!({
            "apiVersion": "apps.cozystack.io/v1alpha1",
            "kind": "VMDisk",
            "metadata": { "name": "x", "namespace": "a" },
            "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn origin(spec: &Value) -> Result<Origin, String> {
        disk(spec).origin()
    }

    #[test]
    fn each_source_is_where_a_disk_comes_from_and_none_is_an_empty_one() {
        assert_eq!(origin(&json!({})).unwrap(), Origin::Empty);
        assert_eq!(origin(&json!({ "source": {}, "storage": 4096 })).unwrap(), Origin::Empty);
        let golden = json!({ "source": { "image": { "name": "ubuntu-2404" } } });
        assert_eq!(origin(&golden).unwrap(), Origin::Golden("ubuntu-2404".to_owned()));
        let disk = json!({ "source": { "disk": { "name": "y" } } });
        assert_eq!(origin(&disk).unwrap(), Origin::Disk("y".to_owned()));
        let upload = json!({ "source": { "upload": {} } });
        assert_eq!(origin(&upload).unwrap(), Origin::Upload { checksums: vec![] });
        let image = origin(&json!({ "source": { "virtualImage": { "name": "y" } } })).unwrap();
        assert!(matches!(image, Origin::Object { namespace: Some(namespace), .. } if namespace == "a"));
        let image = origin(&json!({ "source": { "clusterVirtualImage": { "name": "y" } } })).unwrap();
        assert!(matches!(image, Origin::Object { namespace: None, .. }));
        let http = origin(&json!({ "source": { "http": { "url": "https://x.example/y" } } })).unwrap();
        assert!(matches!(http, Origin::Shared { .. }));
    }

    #[test]
    fn what_makes_no_sense_is_said_in_a_sentence() {
        for spec in [
            json!({ "source": { "upload": {}, "disk": { "name": "y" } } }),
            json!({ "storage": "0" }),
            json!({ "storage": "much" }),
            json!({ "storage": "-5Gi" }),
            json!({ "storage": -5 }),
            json!({ "storage": 1e30 }),
            json!({ "storage": [] }),
            json!({ "source": { "disk": { "name": "x/status" } } }),
            json!({ "source": { "image": { "name": "Ubuntu 24.04" } } }),
            json!({ "source": { "http": { "url": "no address" } } }),
        ] {
            assert!(origin(&spec).unwrap_err().starts_with("spec."), "{spec}");
        }
    }
}
