//! `dvcr vm`: machines without a cluster.

mod qemu;
mod run;
mod seed;

use clap::{Args, Subcommand};
use serde_json::to_value;

use super::Failure;
use super::output::{OutputArgs, table};
use crate::controller::machine::InstanceType;

/// Run VMInstance resources of `dvcr serve` on this machine, with qemu.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr vm run web                            its console is this terminal; Ctrl-A X ends it
  dvcr vm run web --forward 2222:22          and then: ssh -p 2222 admin@127.0.0.1
  dvcr vm run web --snapshot                 what it writes is thrown away
  dvcr vm types                              the sizes that machines have by name")]
pub(super) struct Vm {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Boot a VMInstance from its disks, and have its serial console here.
    Run(Box<run::Run>),
    /// List the sizes that machines have by name.
    Types(Types),
}

#[derive(Debug, Args)]
struct Types {
    #[command(flatten)]
    output: OutputArgs,
}

impl Vm {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Run(run) => run.run(),
            Action::Types(types) => types.list(),
        }
    }
}

impl Types {
    fn list(self) -> Result<(), Failure> {
        let all: Vec<_> = InstanceType::all().collect();
        let shown = to_value(&all).map_err(|error| Failure::because("cannot write the result", &error))?;
        self.output.print(&shown, || {
            let row = |size: &&InstanceType| {
                vec![size.name.to_owned(), size.cpus.to_string(), format!("{} Gi", size.memory_gib)]
            };
            table(&["NAME", "CPUS", "MEMORY"], &all.iter().map(row).collect::<Vec<_>>())
        })
    }
}
