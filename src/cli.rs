//! The command line: one file per subcommand, and what a failure looks like to a person.
//!
//! Exit codes: 0 done, 1 it failed, 2 it was asked wrongly (flags, configuration), 3 what it was given is not
//! acceptable, so that trying again cannot help, 130 it was told to stop.

mod admission;
mod api_server;
mod auth;
mod collect;
mod completion;
mod controller;
mod copy;
mod copy_volume;
mod crds;
mod denied;
mod embedded;
mod golden;
mod healthcheck;
mod import;
mod inspect;
mod leader;
mod ls;
mod output;
mod progress;
mod progress_server;
mod pull;
mod quotas;
mod registry;
mod retention;
mod rewrite;
mod rm;
mod serve;
mod size;
mod stats;
mod tls;
mod traces;
mod upkeep;
mod verify;
mod vm;
mod webhooks;

use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::disk::Format;
use crate::telemetry::{self, CommandSpan};

/// An OCI-native registry for virtual-machine disk images.
#[derive(Debug, Parser)]
#[command(name = "dvcr", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Quick start:
  dvcr serve                                                   registry on 127.0.0.1:5000, data in ./dvcr-data
  dvcr import https://…/noble.img 127.0.0.1:5000/disks/noble   a disk image from the web, a file, a device
  dvcr pull 127.0.0.1:5000/disks/noble -o noble.img            the disk back")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Controller(Box<controller::Controller>),
    Import(Box<import::Import>),
    Pull(pull::Pull),
    Inspect(inspect::Inspect),
    Ls(ls::Ls),
    Rm(rm::Rm),
    Copy(copy::Copy),
    #[command(hide = true)]
    CopyVolume(copy_volume::CopyVolume),
    Stats(stats::Stats),
    Collect(collect::Collect),
    Verify(verify::Verify),
    Rewrite(rewrite::Rewrite),
    Golden(golden::GoldenCommand),
    Vm(vm::Vm),
    Crds(crds::Crds),
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
    /// What it was given is not acceptable.
    #[error("{0}")]
    Refused(String),
    /// What is stored is not as it should be.
    #[error("{0}")]
    Damaged(String),
    /// It was told to stop before it was done.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    /// What an error of the library means for whoever may try again.
    fn judged(is_refusal: bool, error: &dyn std::error::Error) -> Self {
        if is_refusal { Self::Refused(error.to_string()) } else { Self::Failed(error.to_string()) }
    }

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
    let name = cli.command.traced();
    let begun = name.map_or(Ok(None), |_| traces::begin());
    let traces = begun.as_ref().ok().and_then(Option::as_ref);
    if !matches!(cli.command, Command::Serve(_) | Command::Controller(_)) {
        // Warnings of what a command does, or more for whoever looks for a reason. What does not parse is no reason to
        // refuse the work.
        let level = std::env::var("DVCR_LOG_LEVEL")
            .unwrap_or_else(|_| "warn,rustls_platform_verifier=off".to_owned());
        let _ = telemetry::init_with(&level, false, None, traces);
    }
    if let Err(error) = &begun {
        tracing::warn!(%error, "no traces are sent");
    }
    let span = name.filter(|_| traces.is_some()).map(CommandSpan::begin);
    let outcome = match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Controller(controller) => controller.run(),
        Command::Import(import) => import.run(),
        Command::Pull(pull) => pull.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Ls(ls) => ls.run(),
        Command::Rm(rm) => rm.run(),
        Command::Copy(copy) => copy.run(),
        Command::CopyVolume(copy) => copy.run(),
        Command::Stats(stats) => stats.run(),
        Command::Collect(collect) => collect.run(),
        Command::Verify(verify) => verify.run(),
        Command::Rewrite(rewrite) => rewrite.run(),
        Command::Golden(golden) => golden.run(),
        Command::Vm(vm) => vm.run(),
        Command::Crds(crds::Crds {}) => crds::run(),
        Command::Healthcheck(healthcheck) => healthcheck.run(),
        Command::Completion(completion) => completion.run(),
    };
    if let Some(span) = span {
        span.ended(outcome.is_ok());
    }
    if let Ok(Some(traces)) = begun {
        traces.end();
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dvcr: {failure}");
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed(_) => ExitCode::FAILURE,
                Failure::Refused(_) => ExitCode::from(3),
                Failure::Damaged(_) => ExitCode::from(4),
                // As shells say it of SIGINT.
                Failure::Interrupted(_) => ExitCode::from(130),
            }
        }
    }
}

/// A format that qemu-img converts to.
fn target_format(text: &str) -> Result<Format, String> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        _ => Err("disks are converted to raw or qcow2".to_owned()),
    }
}

/// Runs a command's work, until it is done or somebody asks it to stop.
fn run_to_end<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = work => Some(outcome),
            () = told_to_stop() => None,
        }
    });
    if let Some(outcome) = outcome {
        // Not by dropping it: a thread may wait for standard input, which may never come.
        runtime.shutdown_background();
        return outcome;
    }
    // What is half done is taken away by those who did it.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Err(Failure::Interrupted("stopped".to_owned()))
}

/// Ready when the process gets SIGTERM or SIGINT.
async fn told_to_stop() {
    StopSignals::listen().next().await;
}

/// SIGTERM and SIGINT; none is lost between two waits.
struct StopSignals {
    streams: Vec<Signal>,
}

impl StopSignals {
    /// Listens from now on. Where that cannot be, the process stops as the system does it.
    fn listen() -> Self {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
        Self { streams: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect() }
    }

    /// Ready at the next signal.
    async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let came = self.streams.iter_mut().any(|stream| stream.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// The runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the runtime", &error))
}
