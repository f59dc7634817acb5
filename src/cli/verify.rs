//! `dvcr verify`: have a registry look whether what it stores is there, and is what was pushed.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::output::{OutputArgs, bytes, fields};
use super::progress::{ProgressArgs, Told};
use super::registry::{RegistryArgs, not_of_dvcr};
use super::size::Size;
use super::{Failure, run_to_end};
use crate::client::{Client, ClientError, Retries};
use crate::oci::RegistryHost;
use crate::registry::{Checked, Finding, Verified};

/// Have a registry look whether what it stores is there, and is what was pushed.
///
/// Every stored byte is read once and compared with its hash, while everything can be pushed and pulled. What is damaged or missing
/// is told, and put aside: clients hear that it is not there, and whoever pushes or imports it again heals it. One that was
/// stopped goes on where it was when it is started again. The exit code is 4 if anything was found.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr verify 127.0.0.1:5000
  dvcr verify --quick 127.0.0.1:5000                  whether everything is there, without reading data
  dvcr verify --rate 50Mi --output json 127.0.0.1:5000 | jq -r '.found[].digest'")]
pub(super) struct Verify {
    /// The registry.
    #[arg(value_name = "REGISTRY")]
    host: RegistryHost,
    #[command(flatten)]
    depth: DepthArgs,
    /// Bytes that are read in a second, at most.
    #[arg(long, value_name = "SIZE")]
    rate: Option<Size>,
    /// Put nothing aside.
    #[arg(long)]
    dry_run: bool,
    /// Begin anew, also where an earlier one was stopped.
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How much is read.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct DepthArgs {
    /// Read records and lists of chunks only: whether all data is there, and as long as it should be.
    #[arg(long)]
    quick: bool,
    /// Besides, read every blob as clients get it: what many blobs have in common is read many times.
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    found: Vec<Finding>,
    #[serde(flatten)]
    tally: Checked,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.verify())
    }

    async fn verify(self) -> Result<(), Failure> {
        // It tells how far it is each second, once it has read all records; to ask again would begin again.
        let client = self.registry.client(Retries { attempts: 1 }, Duration::from_hours(1))?;
        let told = Told::default();
        let look = || told.snapshot("verifying");
        let outcome = self.progress.show(look, self.follow(&client, &told)).await?;
        self.output.print(&outcome, || text(&outcome))?;
        match outcome.found.len() {
            0 => Ok(()),
            number => Err(Failure::Damaged(format!(
                "{number} things that {} stores are not as they should be; push or import again what was put aside",
                self.host
            ))),
        }
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let depth = match self.depth {
            DepthArgs { quick: true, .. } => "quick",
            DepthArgs { deep: true, .. } => "deep",
            DepthArgs { .. } => "stored",
        };
        let mut parameters = vec![
            ("depth", depth.to_owned()),
            ("dryRun", self.dry_run.to_string()),
            ("restart", self.restart.to_string()),
        ];
        parameters.extend(self.rate.map(|Size(rate)| ("rate", rate.to_string())));
        parameters
    }

    async fn follow(&self, client: &Client, progress: &Told) -> Result<Outcome, Failure> {
        let failed = |error: ClientError| not_of_dvcr(&self.host, "verify", &error);
        let mut events = client.verify(&self.host, &self.parameters()).await.map_err(failed)?;
        let mut found = Vec::new();
        while let Some(event) = events.next().await.map_err(failed)? {
            match event {
                Verified::Begins { bytes, passed, .. } => {
                    progress.total(bytes);
                    progress.done(passed);
                }
                Verified::Passes(passed) => progress.done(passed),
                Verified::Found(finding) => found.push(finding),
                Verified::Ends(tally) => return Ok(Outcome { found, tally }),
            }
        }
        Err(Failure::Failed(format!(
            "{}{} stopped before it was done; its log may say why, and the same command goes on",
            lines(&found),
            self.host
        )))
    }
}

fn text(Outcome { found, tally }: &Outcome) -> String {
    let looked = fields(&[
        ("Manifests", tally.manifests.to_string()),
        ("Tags", tally.tags.to_string()),
        ("Blobs", format!("{}, {}", tally.blobs.count, bytes(tally.blobs.bytes))),
        ("Read", bytes(tally.read)),
        ("Found", tally.findings.to_string()),
        ("Orphaned", format!("{} objects, {}", tally.orphaned.count, bytes(tally.orphaned.bytes))),
    ]);
    format!("{}{looked}", lines(found))
}

fn lines(found: &[Finding]) -> String {
    found.iter().map(|finding| line(finding) + "\n").collect()
}

fn line(finding: &Finding) -> String {
    let what = finding.digest.as_ref().map_or_else(|| finding.key.clone(), ToString::to_string);
    let of = match &finding.repositories[..] {
        [] => String::new(),
        names => format!(" of {}", names.join(", ")),
    };
    let aside = if finding.quarantined { " (put aside)" } else { "" };
    format!("{what}{of}: {}{aside}", finding.reason)
}
