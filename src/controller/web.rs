//! Files on somebody else's web server, as the controller itself reaches them.

use crate::client::{Client, ClientError, ClientOptions, Credentials, Egress, Retries, TransportOptions};
use crate::importer::HttpSource;

use super::image::HttpFile;

/// A client of somebody else's server, which is at no address that `egress` forbids.
pub(super) fn client(
    authorities: Option<&Vec<u8>>,
    credentials: Credentials,
    egress: &Egress,
) -> Result<Client, ClientError> {
    let transport = TransportOptions {
        authorities: authorities.into_iter().cloned().collect(),
        egress: egress.clone(),
        ..TransportOptions::default()
    };
    Client::new(ClientOptions { transport, credentials, ..ClientOptions::default() })
}

/// A file, asked for as nobody.
pub(super) fn source(file: &HttpFile, egress: &Egress, retries: Retries) -> Result<HttpSource, ClientError> {
    let client = client(file.authorities.as_ref(), Credentials::Anonymous, egress)?;
    Ok(HttpSource::at(client.transport().clone(), file.url.clone(), retries))
}
