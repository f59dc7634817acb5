//! Where sources may not be, as `dvcr import` and `dvcr controller` take it. `dvcr serve` has it among its settings.

use clap::Args;

use crate::config::Networks;

/// Networks that sources may not be in.
#[derive(Debug, Args)]
pub(super) struct DeniedArgs {
    /// Let no source be in these networks, with a comma between them, such as 10.0.0.0/8: those of a cluster's pods, services and
    /// nodes.
    #[arg(
        long,
        value_name = "NETWORKS",
        env = "DVCR_DENY_NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) deny_networks: Networks,
}
