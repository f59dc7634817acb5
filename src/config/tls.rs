//! The settings below `tls`.

use std::path::PathBuf;

use serde::Deserialize;

/// The settings below `tls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate of the server and those that lead to its authority, in PEM. With it, the server speaks TLS only.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key: Option<PathBuf>,
    /// The authorities of clients, in PEM. With it, clients are asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is let in.
    pub client_certificates: ClientCertificates,
}

/// What becomes of a client that shows no certificate, where there are authorities of clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// It is turned away.
    #[default]
    Required,
    /// It is let in. One with a certificate of somebody else is not.
    Optional,
}

impl TlsConfig {
    /// What does not go together.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err("tls.certificate and tls.key go together; one is missing");
        }
        if self.client_ca.is_some() && self.certificate.is_none() {
            return Err("tls.client_ca needs tls.certificate and tls.key: there is no TLS without them");
        }
        Ok(())
    }
}
