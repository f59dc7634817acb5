//! [`RegistryArgs`]: the options of every command that speaks to a registry.

use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::Certificate;
use reqwest::header::{HeaderMap, HeaderName};

use super::Failure;
use crate::client::{Client, ClientError, ClientOptions, Credentials, Egress, Retries, TransportOptions};
use crate::oci::RegistryHost;
use crate::telemetry::trace_headers;

/// How registries are spoken to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry options")]
pub(super) struct RegistryArgs {
    /// Speak plain HTTP to this registry; those on loopback are spoken to so anyway.
    #[arg(long, value_name = "HOST[:PORT]")]
    plain_http: Vec<RegistryHost>,
    /// Speak TLS to this registry, though it is on loopback.
    #[arg(long, value_name = "HOST[:PORT]")]
    tls: Vec<RegistryHost>,
    /// Further certificate authorities, in PEM.
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// Accept any certificate. The connection may be anybody's then.
    #[arg(long)]
    insecure_skip_tls_verify: bool,
    /// Credentials in the format of docker's config.json [default: docker's, then podman's].
    #[arg(long, value_name = "FILE", env = "DVCR_AUTH_FILE")]
    auth_file: Option<PathBuf>,
    /// The controller's word for its Jobs: what they are let in with by the registry.
    #[arg(long, hide = true, env = "DVCR_REGISTRY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    registry_token: Option<String>,
}

impl RegistryArgs {
    /// A client for registries.
    pub(super) fn client(&self, retries: Retries, patience: std::time::Duration) -> Result<Client, Failure> {
        let credentials = match &self.registry_token {
            Some(token) => Credentials::Login(token.clone()),
            None => credentials(self.auth_file.as_deref())?,
        };
        self.client_as(credentials, retries, patience)
    }

    /// The same for somebody else.
    pub(super) fn client_as(
        &self,
        credentials: Credentials,
        retries: Retries,
        patience: std::time::Duration,
    ) -> Result<Client, Failure> {
        let transport = TransportOptions {
            authorities: read_all(&self.ca_file)?,
            insecure: self.insecure_skip_tls_verify,
            egress: Egress::default(),
            patience,
            own: None,
            headers: trace(),
        };
        self.client_with(transport, credentials, retries)
    }

    /// A client for a source, which has authorities, credentials and a rule of its own.
    pub(super) fn client_with(
        &self,
        transport: TransportOptions,
        credentials: Credentials,
        retries: Retries,
    ) -> Result<Client, Failure> {
        let (plain_http, tls) = (self.plain_http.clone(), self.tls.clone());
        Client::new(ClientOptions { transport, credentials, retries, plain_http, tls })
            .map_err(|error| Failure::Usage(error.to_string()))
    }

    /// A client with the usual patience.
    pub(super) fn default_client(&self) -> Result<Client, Failure> {
        self.client(Retries::default(), TransportOptions::default().patience)
    }

    /// The authorities, and whether any certificate is accepted.
    pub(super) fn authorities(&self, more: &[PathBuf]) -> Result<(Vec<Vec<u8>>, bool), Failure> {
        let mut all = read_all(&self.ca_file)?;
        all.extend(read_all(more)?);
        Ok((all, self.insecure_skip_tls_verify))
    }
}

/// The failure of what only a registry of DVCR does.
pub(super) fn not_of_dvcr(host: &RegistryHost, what: &str, error: &ClientError) -> Failure {
    Failure::Failed(match error {
        ClientError::NotFound { .. } => {
            format!("{host} is no registry of DVCR, or an older one: it does not {what}")
        }
        error => error.to_string(),
    })
}

/// Credentials from a file, which must be there, or from the user's own places.
pub(super) fn credentials(file: Option<&Path>) -> Result<Credentials, Failure> {
    let Some(file) = file else { return Ok(Credentials::User) };
    let text = read(file)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
    let document: serde_json::Value = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    if document.is_object() {
        Ok(Credentials::File(file.to_owned()))
    } else {
        Err(wrong(&"it is no JSON object"))
    }
}

/// What a registry is told of the trace that this command is. Sources are others' and are told nothing.
fn trace() -> HeaderMap {
    let headers = trace_headers().iter();
    headers.filter_map(|(name, value)| Some((HeaderName::from_static(name), value.parse().ok()?))).collect()
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, Failure> {
    let authorities = files.iter().map(|file| {
        let pem = read(file)?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(found) if !found.is_empty() => Ok(pem),
            Ok(_) => Err(Failure::Usage(format!("{}: it holds no PEM certificate", file.display()))),
            Err(error) => Err(Failure::Usage(format!("{}: {error}", file.display()))),
        }
    });
    authorities.collect()
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}
