//! `dvcr healthcheck`: for container images, which have no curl.

use std::time::Duration;

use clap::Args;
use reqwest::{Client, Identity};

use super::serve::Flags;
use super::{Failure, runtime};
use crate::config::TlsConfig;

/// Ask a running registry whether it can work.
///
/// Takes the settings of `serve`, to find it. Exit code 0: it is ready.
#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    #[command(flatten)]
    flags: Flags,
}

/// Docker's own default for a health check.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Healthcheck {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.flags.config()?;
        let address = reachable(config.listen.as_str());
        let asked =
            runtime()?.block_on(async { tokio::time::timeout(TIMEOUT, ask(&address, &config.tls)).await });
        match asked {
            Ok(Ok(200)) => Ok(()),
            Ok(Ok(status)) => Err(Failure::Failed(format!("the registry on {address} answered {status}"))),
            Ok(Err(error)) => {
                Err(Failure::because(format!("the registry on {address} does not answer"), &*error))
            }
            Err(_) => Err(Failure::Failed(format!("the registry on {address} did not answer in time"))),
        }
    }
}

/// Where a server is reached that listens on `listen`, which may be all addresses.
fn reachable(listen: &str) -> String {
    for (all, loopback) in [("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")] {
        if let Some(port) = listen.strip_prefix(all) {
            return format!("{loopback}{port}");
        }
    }
    listen.to_owned()
}

/// Whether the certificate is right is for clients to judge: a server that has an old one works nonetheless.
async fn ask(address: &str, tls: &TlsConfig) -> Result<u16, Box<dyn std::error::Error>> {
    // A provider that is installed already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
    let mut scheme = "http";
    if let Some((certificate, key)) = tls.certificate.as_deref().zip(tls.key.as_deref()) {
        scheme = "https";
        // The server knows itself by its own certificate, also where it turns clients without one away.
        let pem = [std::fs::read(certificate)?, b"\n".to_vec(), std::fs::read(key)?].concat();
        client = client.identity(Identity::from_pem(&pem)?);
    }
    let answer = client.build()?.get(format!("{scheme}://{address}/readyz")).send().await?;
    Ok(answer.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:5000"), "127.0.0.1:5000");
        assert_eq!(reachable("[::]:80"), "[::1]:80");
        assert_eq!(reachable("10.0.0.1:5000"), "10.0.0.1:5000");
    }
}
