//! [`Read`]: what an image takes out of the registry and the cluster besides its own, by its spec.
//!
//! The controller fetches it with rights of its own, which reach all images. So whoever writes the spec has to have the right to read it
//! themselves: otherwise a name in a spec would open any image to anybody who may make one.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::crd::{ClusterVirtualImage, ObjectRefKind, VirtualImage, VmDisk};
use super::image::{Image, ImageId, Kind, Origin};
use crate::auth::Action;
use crate::oci::RepositoryName;

/// Something that an image is made from, or with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What it is to people.
    pub what: String,
    /// What one has to be allowed to do to have it.
    pub action: Action,
    /// With this repository; a segment `*` stands for any that there can be. `None`: it has a name that nothing can have.
    pub repository: Option<String>,
}

/// What an object of this kind reads of what belongs to others. Where the controller will refuse its spec, that is nothing.
#[must_use]
pub fn reads(kind: &str, object: &Value) -> Vec<Read> {
    let origin = if kind == Kind::VirtualImage.as_str() {
        origin::<VirtualImage>(object)
    } else if kind == Kind::ClusterVirtualImage.as_str() {
        origin::<ClusterVirtualImage>(object)
    } else if kind == Kind::VmDisk.as_str() {
        origin::<VmDisk>(object)
    } else {
        None
    };
    match origin {
        // Other registries, and this one too, are asked as nobody or with the credentials in the secret: those are what is read.
        Some(Origin::Registry { secret: Some(secret), .. }) => vec![Read {
            what: format!("secret {}/{}", secret.namespace, secret.name),
            // As it takes to read the secret itself.
            action: Action::Push,
            repository: in_namespace(&secret.namespace).filter(|_| is_segment(&secret.name)),
        }],
        Some(Origin::Object { kind, namespace, name }) => vec![of_object(kind, namespace, name)],
        // A version of it, of which nobody knows yet which one that is.
        Some(Origin::Golden(name)) => vec![Read {
            what: format!("golden image {name}"),
            action: Action::Pull,
            repository: Some("cvi/*".to_owned()),
        }],
        // Another disk is of the same namespace, as this one.
        Some(
            Origin::Registry { secret: None, .. }
            | Origin::Http(_)
            | Origin::Shared { .. }
            | Origin::Upload { .. }
            | Origin::Disk(_)
            | Origin::Empty,
        )
        | None => Vec::new(),
    }
}

fn origin<I: Image + DeserializeOwned>(object: &Value) -> Option<Origin> {
    // The controller reads it in the same way, and does nothing with what it cannot read.
    serde_json::from_value::<I>(object.clone()).ok()?.origin().ok()
}

fn of_object(kind: ObjectRefKind, namespace: Option<String>, name: String) -> Read {
    let what = match &namespace {
        Some(namespace) => format!("{} {namespace}/{name}", kind.as_str()),
        None => format!("{} {name}", kind.as_str()),
    };
    // Paths are made of these names: none may lead anywhere else.
    let are_names = is_segment(&name) && namespace.as_deref().is_none_or(is_segment);
    let repository = match (kind, namespace) {
        _ if !are_names => None,
        (ObjectRefKind::ClusterVirtualImage, _) => of_image(Kind::ClusterVirtualImage, None, name),
        (ObjectRefKind::VirtualImage, namespace @ Some(_)) => of_image(Kind::VirtualImage, namespace, name),
        // A disk is in no repository. It belongs to all who have the namespace.
        (ObjectRefKind::VirtualDisk | ObjectRefKind::VirtualDiskSnapshot, Some(namespace)) => {
            in_namespace(&namespace)
        }
        (_, None) => None,
    };
    Read { what, action: Action::Pull, repository }
}

fn of_image(kind: Kind, namespace: Option<String>, name: String) -> Option<String> {
    let id = ImageId { kind, namespace, name, uid: String::new() };
    Some(id.repository().ok()?.to_string())
}

fn in_namespace(namespace: &str) -> Option<String> {
    is_segment(namespace).then(|| format!("vi/{namespace}/*"))
}

/// Whether a name is one of those that Kubernetes allows, which can all be a segment of a repository's.
fn is_segment(name: &str) -> bool {
    !name.contains('/') && name.parse::<RepositoryName>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image(kind: &str, source: &Value) -> Vec<(Action, Option<String>)> {
        let object = json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2",
            "kind": kind,
            "metadata": { "name": "new", "namespace": (kind == "VirtualImage").then_some("a") },
            "spec": { "dataSource": source },
        });
        reads(kind, &object).into_iter().map(|read| (read.action, read.repository)).collect()
    }

    fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
        let mut object = json!({ "kind": kind, "name": name });
        if let Some(namespace) = namespace {
            object["namespace"] = json!(namespace);
        }
        json!({ "type": "ObjectRef", "objectRef": object })
    }

    fn from_registry(secret: &Value) -> Value {
        let source = json!({ "image": "r.example/x:1", "imagePullSecret": secret });
        json!({ "type": "ContainerImage", "containerImage": source })
    }

    #[test]
    fn what_is_made_of_an_image_reads_that() {
        let pull = |repository: &str| vec![(Action::Pull, Some(repository.to_owned()))];
        for (kind, source, repository) in [
            ("VirtualImage", object("ClusterVirtualImage", "golden", None), "cvi/golden"),
            ("VirtualImage", object("VirtualImage", "other", None), "vi/a/other"),
            ("VirtualImage", object("VirtualDisk", "disk", None), "vi/a/*"),
            ("ClusterVirtualImage", object("ClusterVirtualImage", "golden", None), "cvi/golden"),
            ("ClusterVirtualImage", object("VirtualImage", "other", Some("b")), "vi/b/other"),
            ("ClusterVirtualImage", object("VirtualDisk", "disk", Some("b")), "vi/b/*"),
        ] {
            assert_eq!(image(kind, &source), pull(repository), "{kind} {source}");
        }
    }

    #[test]
    fn what_is_fetched_with_a_secret_reads_the_secret() {
        let push = |repository: &str| vec![(Action::Push, Some(repository.to_owned()))];
        assert_eq!(image("VirtualImage", &from_registry(&json!({ "name": "s" }))), push("vi/a/*"));
        let there = json!({ "name": "s", "namespace": "b" });
        assert_eq!(image("ClusterVirtualImage", &from_registry(&there)), push("vi/b/*"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_nothing_that_anybody_may_read() {
        for name in ["x?a=-public", "x/status", "../x", "X", ".", "a b", ""] {
            assert_eq!(
                image("VirtualImage", &object("ClusterVirtualImage", name, None)),
                [(Action::Pull, None)],
                "{name}"
            );
            let source = object("VirtualImage", "x", Some(name));
            assert_eq!(image("ClusterVirtualImage", &source), [(Action::Pull, None)], "{name}");
            let source = from_registry(&json!({ "name": "s", "namespace": name }));
            assert_eq!(image("ClusterVirtualImage", &source), [(Action::Push, None)], "{name}");
        }
        let nowhere = object("VirtualImage", "x", None);
        assert_eq!(image("ClusterVirtualImage", &nowhere), [(Action::Pull, None)]);
    }

    #[test]
    fn what_comes_from_elsewhere_reads_nothing_of_ours() {
        let web = json!({ "type": "HTTP", "http": { "url": "http://h.example/disk.img" } });
        let anybody = json!({ "type": "ContainerImage", "containerImage": { "image": "r.example/x:1" } });
        for source in [web, anybody, json!({ "type": "Upload" })] {
            assert_eq!(image("VirtualImage", &source), [], "{source}");
        }
        assert!(reads("Secret", &json!({ "data": {} })).is_empty());
    }
}
