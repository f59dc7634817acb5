//! `dvcr crds`: the custom resource definitions.

use std::io::{ErrorKind, Write as _};

use clap::Args;

use super::Failure;
use crate::controller::crd;

/// Print the custom resource definitions of VirtualImage, ClusterVirtualImage, `VMDisk` and `VMInstance`, for kubectl apply.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr crds | kubectl apply --server-side -f -")]
pub(super) struct Crds {}

pub(super) fn run() -> Result<(), Failure> {
    for definition in crd::definitions() {
        let yaml = crd::to_yaml(&definition)
            .map_err(|error| Failure::because("a definition of ours cannot be written", &error))?;
        match write!(std::io::stdout(), "---\n{yaml}") {
            // Whoever reads may have seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            written => written.map_err(|error| Failure::because("cannot print", &error))?,
        }
    }
    Ok(())
}
