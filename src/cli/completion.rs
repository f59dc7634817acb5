//! `dvcr completion`: completion for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  dvcr completion bash > /etc/bash_completion.d/dvcr")]
pub(super) struct Completion {
    /// The shell.
    shell: Shell,
}

impl Completion {
    #[expect(clippy::unnecessary_wraps, reason = "every command answers alike")]
    pub(super) fn run(self) -> Result<(), Failure> {
        clap_complete::generate(self.shell, &mut Cli::command(), "dvcr", &mut std::io::stdout());
        Ok(())
    }
}
