//! Who may have an image made from what: the rules of the registry, where specs of `VirtualImage` resources name images, disks and secrets.

use axum::http::Extensions;
use serde_json::Value;

use crate::apiserver::Admission;
use crate::auth::Caller;
use crate::controller::{Read, reads};

/// Lets an image name what its writer may read.
#[derive(Debug)]
pub(super) struct OwnRights;

impl Admission for OwnRights {
    fn refuses(&self, asker: &Extensions, kind: &str, old: Option<&Value>, new: &Value) -> Option<String> {
        // The controller asks for nothing by a connection, and so without a guard.
        let caller: &Caller = asker.get()?;
        // Whoever changes something else need not have the rights of whoever has named it.
        let known = old.map(|old| reads(kind, old)).unwrap_or_default();
        let mut named = reads(kind, new).into_iter().filter(|read| !known.contains(read));
        let denied = named.find(|read| !may(caller, read))?;
        let user = caller.identity().shown();
        let Read { what, action, repository } = denied;
        let needed = match repository {
            Some(repository) => format!("that takes {action} on {repository}"),
            None => "nothing can have that name".to_owned(),
        };
        Some(format!("user {user:?} may not make an image of {what}: {needed}"))
    }
}

fn may(caller: &Caller, read: &Read) -> bool {
    match &read.repository {
        Some(repository) => caller.may(read.action, repository),
        None => caller.may_administer(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made_of(name: &str) -> Value {
        json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2",
            "kind": "ClusterVirtualImage",
            "metadata": { "name": "new" },
            "spec": { "dataSource": {
                "type": "ObjectRef",
                "objectRef": { "kind": "ClusterVirtualImage", "name": name },
            } },
        })
    }

    #[test]
    fn the_process_itself_and_whoever_is_trusted_may_name_everything() {
        let mut asker = Extensions::new();
        let refused =
            |asker: &Extensions| OwnRights.refuses(asker, "ClusterVirtualImage", None, &made_of("x"));
        assert_eq!(refused(&asker), None);
        asker.insert(Caller::trusted());
        assert_eq!(refused(&asker), None);
    }
}
