//! `dvcr crds`: the custom resource definitions.

use clap::Args;

use super::Failure;
use crate::controller::crd;

/// Print the custom resource definitions of VirtualImage and ClusterVirtualImage, for kubectl apply.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr crds | kubectl apply --server-side -f -")]
pub(super) struct Crds {}

pub(super) fn run() -> Result<(), Failure> {
    for definition in crd::definitions() {
        let yaml = crd::to_yaml(&definition)
            .map_err(|error| Failure::because("a definition of ours cannot be written", &error))?;
        print!("---\n{yaml}");
    }
    Ok(())
}
