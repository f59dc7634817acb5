//! [`Credentials`]: who we are at a registry, from docker's own places.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::ClientError;
use crate::oci::{RegistryHost, RepositoryName};

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// Nowhere.
    #[default]
    Anonymous,
    /// The user's docker configuration, then podman's; credential helpers are asked.
    User,
    /// A file in the format of docker's config.json; credential helpers are asked.
    File(PathBuf),
    /// The content of such a file that is somebody else's, such as a pull secret: no program is run for it.
    Document(String),
    /// A refresh token, for whatever registry is spoken to: the one that it is for.
    Login(String),
    /// Made by this program itself, for the one registry that trusts it.
    Own {
        /// That registry.
        registry: RegistryHost,
        /// What makes them.
        tokens: Arc<dyn IdentityTokens>,
    },
}

/// Makes what a registry takes for a login, each time anew.
pub trait IdentityTokens: std::fmt::Debug + Send + Sync {
    /// A refresh token for the registry's token server.
    fn identity_token(&self) -> String;
}

/// What a registry is told.
#[derive(Clone)]
pub(super) enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// A refresh token for the registry's token server (docker's `identitytoken`).
    IdentityToken(String),
}

impl Credentials {
    /// The credential for a repository, if there is one. May run a program: not for an async thread.
    pub(super) fn find(
        &self,
        registry: &RegistryHost,
        repository: &RepositoryName,
    ) -> Result<Option<Credential>, ClientError> {
        if let Self::Login(token) = self {
            return Ok(Some(Credential::IdentityToken(token.clone())));
        }
        if let Self::Own { registry: own, tokens } = self {
            let token = || Credential::IdentityToken(tokens.identity_token());
            return Ok((own == registry).then(token));
        }
        for name in self.scoped_names(registry, repository)? {
            if let Some(found) = self.look_up(registry, &name)? {
                return Ok(Some(found));
            }
        }
        // Docker Hub has kept the name of its first API as a key.
        let names: &[&str] = match registry.as_str() {
            "docker.io" => &["https://index.docker.io/v1/", "docker.io"],
            host => &[host],
        };
        for name in names {
            if let Some(found) = self.look_up(registry, name)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The keys of a file that are for this repository or a part of the registry that it is in, the narrowest first, as
    /// podman and Kubernetes know them: `host/team/disks`.
    fn scoped_names(
        &self,
        registry: &RegistryHost,
        repository: &RepositoryName,
    ) -> Result<Vec<String>, ClientError> {
        let text = match self {
            Self::Anonymous | Self::User | Self::Login(_) | Self::Own { .. } => return Ok(Vec::new()),
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| failed(registry, path, &error))?
            }
            Self::Document(text) => text.clone(),
        };
        // What does not parse is found out where it is looked up.
        let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let whole = format!("{registry}/{repository}");
        let parts = whole.match_indices('/').skip(1).map(|(end, _)| whole[..end].to_owned());
        let mut names: Vec<_> = parts.chain([whole.clone()]).collect();
        names.reverse();
        names.retain(|name| document["auths"].get(name).is_some());
        Ok(names)
    }

    fn look_up(&self, registry: &RegistryHost, name: &str) -> Result<Option<Credential>, ClientError> {
        let failed = |reason: String| ClientError::Credentials { registry: registry.to_string(), reason };
        let found = match self {
            Self::Anonymous | Self::Login(_) | Self::Own { .. } => return Ok(None),
            Self::User => match docker_credential::get_credential(name) {
                Err(error) if means_none(&error) => docker_credential::get_podman_credential(name),
                found => found,
            },
            Self::File(path) => {
                let file = std::fs::File::open(path)
                    .map_err(|error| failed(format!("{}: {error}", path.display())))?;
                docker_credential::get_credential_from_reader(std::io::BufReader::new(file), name)
            }
            Self::Document(text) => {
                let text = without_programs(text).map_err(|error| failed(error.to_string()))?;
                docker_credential::get_credential_from_reader(text.as_bytes(), name)
            }
        };
        match found {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                Ok(Some(Credential::Password { user, password }))
            }
            Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(token))),
            Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
            Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::ConfigReadError)
                if matches!(self, Self::User) =>
            {
                Ok(None)
            }
            // What a helper says when it knows nothing.
            Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. })
                if format!("{stdout}{stderr}").contains("credentials not found") =>
            {
                Ok(None)
            }
            Err(CredentialRetrievalError::HelperCommunicationError) => {
                let helper = self.helper(name).unwrap_or_else(|| "the credential helper".to_owned());
                Err(failed(format!(
                    "{helper} cannot be run: install it, or take it out of the configuration"
                )))
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The program that the configuration names for a registry.
    fn helper(&self, name: &str) -> Option<String> {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::User => {
                let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
                let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
                folder.or_else(home)?.join("config.json")
            }
            Self::Anonymous | Self::Document(_) | Self::Login(_) | Self::Own { .. } => return None,
        };
        let document: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
        let helper = document["credHelpers"][name].as_str().or(document["credsStore"].as_str())?;
        Some(format!("docker-credential-{helper}"))
    }
}

fn failed(registry: &RegistryHost, path: &Path, error: &std::io::Error) -> ClientError {
    ClientError::Credentials {
        registry: registry.to_string(),
        reason: format!("{}: {error}", path.display()),
    }
}

/// Whether the place has no credential, so that the next one may be asked.
fn means_none(error: &CredentialRetrievalError) -> bool {
    matches!(
        error,
        CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
    )
}

/// The document without the names of programs to run.
fn without_programs(text: &str) -> Result<String, serde_json::Error> {
    let mut document: serde_json::Value = serde_json::from_str(text)?;
    if let Some(fields) = document.as_object_mut() {
        fields.retain(|key, _| key == "auths");
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(document: &str, registry: &str) -> Option<(String, String)> {
        find_for(document, registry, "team/disk")
    }

    fn find_for(document: &str, registry: &str, repository: &str) -> Option<(String, String)> {
        let credentials = Credentials::Document(document.to_owned());
        let found = credentials.find(&registry.parse().unwrap(), &repository.parse().unwrap()).unwrap();
        match found? {
            Credential::Password { user, password } => Some((user, password)),
            Credential::IdentityToken(token) => Some(("<token>".to_owned(), token)),
        }
    }

    #[test]
    fn a_pull_secret_is_read_for_its_registry_alone() {
        let secret = r#"{"auths":{"r.example:5000":{"auth":"dXNlcjpwYTpzcw=="}}}"#;
        assert_eq!(find(secret, "r.example:5000"), Some(("user".to_owned(), "pa:ss".to_owned())));
        assert_eq!(find(secret, "other.example"), None);
    }

    #[test]
    fn the_narrowest_key_for_a_repository_wins() {
        let secret = r#"{"auths":{
            "r.example/team":{"username":"team","password":"1"},
            "r.example/team/disk":{"username":"disk","password":"2"},
            "r.example":{"username":"all","password":"3"}}}"#;
        let user = |repository: &str| find_for(secret, "r.example", repository).unwrap().0;
        assert_eq!(user("team/disk"), "disk");
        assert_eq!(user("team/other"), "team");
        assert_eq!(user("teams/disk"), "all");
    }

    #[test]
    fn a_pull_secret_runs_no_program() {
        let secret = r#"{"credsStore":"evil","credHelpers":{"r.example":"evil"},"auths":{}}"#;
        assert_eq!(find(secret, "r.example"), None);
    }

    #[test]
    fn a_pull_secret_that_does_not_parse_is_an_error() {
        assert!(
            Credentials::Document("{".to_owned())
                .look_up(&"r.example".parse().unwrap(), "r.example")
                .is_err()
        );
    }
}
