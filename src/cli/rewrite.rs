//! `dvcr rewrite`: have a registry store what it has in chunks, or whole again.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output::{OutputArgs, bytes, fields};
use super::progress::{ProgressArgs, Snapshot, Told};
use super::registry::{RegistryArgs, not_of_dvcr};
use super::{Failure, run_to_end};
use crate::client::{Client, ClientError, Retries, RewriteEvent, RewriteOutcome};
use crate::oci::RegistryHost;

/// Have a registry store the blobs that it has in chunks, or whole again.
///
/// For what was pushed before the registry stored in chunks, or when it shall not any more. Everything can be pushed and pulled
/// meanwhile, and it can be stopped at any time: what is done is done, and the rest is for the next time. Compressed blobs stay
/// whole. What a blob was stays until it is collected, for those that are reading it; until then it takes space twice.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr rewrite 127.0.0.1:5000
  dvcr rewrite --to whole 127.0.0.1:5000
  dvcr rewrite --to dense 127.0.0.1:5000")]
pub(super) struct Rewrite {
    /// The registry.
    #[arg(value_name = "REGISTRY")]
    host: RegistryHost,
    /// How blobs shall be stored.
    #[arg(long, value_enum, default_value_t = To::Chunks)]
    to: To,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    /// Each chunk once.
    Chunks,
    /// As they are.
    Whole,
    /// Out of packs of which less than half is needed, so that a collection can delete these. A server does so once a week.
    Dense,
}

#[derive(Debug, Default, Serialize)]
struct Outcome {
    rewritten: u64,
    bytes: u64,
    unchanged: u64,
    failed: Vec<FailedBlob>,
}

#[derive(Debug, Serialize)]
struct FailedBlob {
    digest: String,
    error: String,
}

impl Rewrite {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.rewrite())
    }

    async fn rewrite(self) -> Result<(), Failure> {
        // It tells how far it is each second.
        let client = self.registry.client(Retries { attempts: 1 }, Duration::from_mins(10))?;
        let told = Told::default();
        let look = || match told.snapshot("rewriting") {
            // It is still being found out.
            Snapshot { total: Some(0), .. } => Snapshot { total: None, ..told.snapshot("looking") },
            snapshot => snapshot,
        };
        let outcome = self.progress.show(look, self.follow(&client, &told)).await?;
        self.output.print(&outcome, || {
            fields(&[
                ("Rewritten", format!("{} blobs, {}", outcome.rewritten, bytes(outcome.bytes))),
                ("Unchanged", format!("{} blobs, which are compressed or gone", outcome.unchanged)),
            ])
        })?;
        match &outcome.failed[..] {
            [] => Ok(()),
            failed => {
                let told = failed.iter().map(|FailedBlob { digest, error }| format!("{digest}: {error}"));
                Err(Failure::Failed(told.collect::<Vec<_>>().join("\n")))
            }
        }
    }

    async fn follow(&self, client: &Client, progress: &Told) -> Result<Outcome, Failure> {
        let failed = |error: ClientError| not_of_dvcr(&self.host, "rewrite", &error);
        let form = match self.to {
            To::Chunks => "chunks",
            To::Whole => "whole",
            To::Dense => "dense",
        };
        let mut events = client.rewrite(&self.host, form).await.map_err(failed)?;
        let (mut outcome, mut before, mut left) = (Outcome::default(), 0, 0_u64);
        while let Some(event) = events.next().await.map_err(failed)? {
            match event {
                RewriteEvent::Begins { blobs, bytes } => {
                    left = blobs;
                    progress.total(bytes);
                }
                // What it has looked at is not what it has done: of that nothing is known yet.
                RewriteEvent::Looks { .. } => {}
                RewriteEvent::Fails { error } => {
                    return Err(Failure::Failed(format!("{}: {error}", self.host)));
                }
                RewriteEvent::Passes { passed } => progress.done(before + passed),
                RewriteEvent::Blob { digest, size, outcome: result, error } => {
                    (before, left) = (before + size, left.saturating_sub(1));
                    progress.done(before);
                    match result {
                        RewriteOutcome::Rewritten => {
                            outcome.rewritten += 1;
                            outcome.bytes += size;
                        }
                        RewriteOutcome::Unchanged => outcome.unchanged += 1,
                        RewriteOutcome::Failed => outcome.failed.push(FailedBlob {
                            digest: digest.to_string(),
                            error: error.unwrap_or_default(),
                        }),
                    }
                }
            }
        }
        if left > 0 {
            let told =
                format!("{} stopped with {left} blobs left: the same command goes on with them", self.host);
            return Err(Failure::Failed(told));
        }
        Ok(outcome)
    }
}
