//! [`Credentials`]: who we are at a registry, from docker's own places.

use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::ClientError;
use crate::oci::RegistryHost;

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
    /// The credential for a registry, if there is one. May run a program: not for an async thread.
    pub(super) fn find(&self, registry: &RegistryHost) -> Result<Option<Credential>, ClientError> {
        // Docker Hub has kept the name of its first API as a key.
        let names = if registry.as_str() == "docker.io" {
            vec!["https://index.docker.io/v1/", "docker.io"]
        } else {
            vec![registry.as_str()]
        };
        for name in names {
            if let Some(found) = self.look_up(registry, name)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn look_up(&self, registry: &RegistryHost, name: &str) -> Result<Option<Credential>, ClientError> {
        let failed = |reason: String| ClientError::Credentials { registry: registry.to_string(), reason };
        let found = match self {
            Self::Anonymous => return Ok(None),
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
            Err(error) => Err(failed(error.to_string())),
        }
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
        let found = Credentials::Document(document.to_owned()).find(&registry.parse().unwrap()).unwrap();
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
    fn a_pull_secret_runs_no_program() {
        let secret = r#"{"credsStore":"evil","credHelpers":{"r.example":"evil"},"auths":{}}"#;
        assert_eq!(find(secret, "r.example"), None);
    }

    #[test]
    fn a_pull_secret_that_does_not_parse_is_an_error() {
        assert!(Credentials::Document("{".to_owned()).find(&"r.example".parse().unwrap()).is_err());
    }
}
