//! TLS of `dvcr serve`, from its settings.

use std::sync::Arc;

use super::Failure;
use crate::api::{Tls, TlsOptions};
use crate::config::{ClientCertificates, Config};

/// What TLS is spoken with, if it is.
pub(super) fn open(config: &Config) -> Result<Option<Arc<Tls>>, Failure> {
    let Some((certificate, key)) = config.tls.certificate.clone().zip(config.tls.key.clone()) else {
        return Ok(None);
    };
    let client_ca = config.tls.client_ca.clone();
    let client_required = config.tls.client_certificates == ClientCertificates::Required;
    let tls = Tls::open(TlsOptions { certificate, key, client_ca, client_required })
        .map_err(|error| Failure::because("cannot speak TLS", &error))?;
    Ok(Some(tls))
}
