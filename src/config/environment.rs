//! Settings from environment variables.

use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

/// The variables that begin with `DVCR_`, all as text: a key of an S3 server may look like a number and
/// must not become one.
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    pub(super) fn new(variables: impl Iterator<Item = (String, String)>) -> Self {
        let ours = variables.filter_map(|(name, value)| {
            let key = name.strip_prefix("DVCR_")?.to_lowercase();
            (!is_foreign(&key)).then_some((key, value))
        });
        Self(ours.collect())
    }
}

/// Variables that are no settings of the server: the path of the file itself, what the other commands take, and
/// those that Kubernetes makes in every container for a service that is called `dvcr`.
fn is_foreign(key: &str) -> bool {
    matches!(key, "config" | "auth_file" | "source_user" | "deny_local_addresses" | "port")
        || matches!(key, "registry" | "registry_token" | "image" | "namespace" | "upload_key_secret")
        || key.starts_with("job_")
        || key.starts_with("port_")
        || key.starts_with("service_")
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment (DVCR_*)")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut root = Dict::new();
        let mut tables = [("s3", Dict::new()), ("auth", Dict::new())];
        for (key, value) in &self.0 {
            let found = tables.iter_mut().find_map(|(name, table)| {
                let key = key.strip_prefix(*name)?.strip_prefix('_')?;
                Some((key, table))
            });
            match found {
                Some((key, table)) => table.insert(key.to_owned(), Value::from(value.as_str())),
                None => root.insert(key.clone(), Value::from(value.as_str())),
            };
        }
        for (name, table) in tables.into_iter().filter(|(_, table)| !table.is_empty()) {
            root.insert(name.to_owned(), Value::from(table));
        }
        Ok(Profile::Default.collect(root))
    }
}
