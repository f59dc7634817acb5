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
    matches!(key, "config" | "auth_file" | "source_user" | "deny_local_addresses" | "port" | "server")
        || matches!(key, "registry" | "registry_token" | "image" | "namespace" | "upload_key_secret")
        || key.starts_with("job_")
        || key.starts_with("port_")
        || key.starts_with("service_")
}

/// The tables of the file.
const SECTIONS: [&str; 5] = ["auth", "golden", "limits", "s3", "tls"];

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment (DVCR_*)")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut root = Dict::new();
        let mut sections: Map<&str, Dict> = Map::new();
        for (key, value) in &self.0 {
            let section = SECTIONS
                .into_iter()
                .find_map(|name| Some((name, key.strip_prefix(name)?.strip_prefix('_')?)));
            let (dict, key) = match section {
                Some((name, key)) => (sections.entry(name).or_default(), key),
                None => (&mut root, key.as_str()),
            };
            dict.insert(key.to_owned(), Value::from(value.as_str()));
        }
        root.extend(sections.into_iter().map(|(name, dict)| (name.to_owned(), Value::from(dict))));
        Ok(Profile::Default.collect(root))
    }
}
