//! The command line: one file per subcommand, and what a failure looks like to a person.
//!
//! Exit codes: 0 done, 1 it failed, 2 it was asked wrongly (flags, configuration).

mod completion;
mod healthcheck;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An OCI-native registry for virtual-machine disk images.
#[derive(Debug, Parser)]
#[command(name = "dvcr", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Quick start:
  dvcr serve                                 registry on 127.0.0.1:5000, data in ./dvcr-data
  docker push 127.0.0.1:5000/disks/ubuntu    push an image that holds /disk/<file>")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Healthcheck(healthcheck::Healthcheck),
    Completion(completion::Completion),
}

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It was asked wrongly.
    #[error("{0}")]
    Usage(String),
    /// It did not work.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// A failure with all its causes in one line.
    fn because(what: impl std::fmt::Display, error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string);
        Self::Failed(format!("{what}: {}", causes.collect::<Vec<_>>().join(": ")))
    }
}

/// Runs what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Healthcheck(healthcheck) => healthcheck.run(),
        Command::Completion(completion) => completion.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dvcr: {failure}");
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// The runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the runtime", &error))
}
