//! [`ApiServerArgs`]: which API server a command speaks to.

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Failure;

/// The API server.
#[derive(Debug, Args)]
pub(super) struct ApiServerArgs {
    /// The API server of `dvcr serve`.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5000", env = "DVCR_SERVER")]
    server: String,
    /// The cluster of KUBECONFIG instead, or the one in which this runs.
    #[arg(long, conflicts_with = "server")]
    kubernetes: bool,
    /// A context of KUBECONFIG.
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    context: Option<String>,
}

impl ApiServerArgs {
    /// A client of it.
    pub(super) async fn client(&self) -> Result<kube::Client, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::because("cannot reach the API server", error);
        if !self.kubernetes {
            let wrong = |error| Failure::Usage(format!("--server {}: {error}", self.server));
            let config = kube::Config::new(self.server.parse().map_err(wrong)?);
            return kube::Client::try_from(config).map_err(|error| failed(&error));
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match Kubeconfig::read() {
            Ok(file) => {
                kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?
            }
            Err(_) => kube::Config::infer().await.map_err(|error| failed(&error))?,
        };
        kube::Client::try_from(config).map_err(|error| failed(&error))
    }
}
