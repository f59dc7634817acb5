//! `dvcr collect`: have a registry take away what nothing needs any more.

use std::time::Duration;

use clap::Args;

use super::output::{OutputArgs, bytes, table};
use super::registry::{RegistryArgs, not_of_dvcr};
use super::{Failure, run_to_end};
use crate::client::Retries;
use crate::oci::RegistryHost;
use crate::registry::{Amount, Collected};

/// Have a registry take away what nothing needs any more.
///
/// A registry does so by itself now and then; this is for whoever wants to see it, or not to wait. Everything can be pushed and
/// pulled meanwhile, and on every replica. What nothing needs is condemned first, and goes in a collection that begins when the
/// grace is over (the setting `grace`, six hours): a client may have been told that it is there. An image that was deleted takes
/// space for twice the grace, therefore. Images go when somebody deletes them; none goes because it has no tag.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr collect --dry-run 127.0.0.1:5000                        what would go in the end, and how much that is
  dvcr collect 127.0.0.1:5000
  dvcr collect --output json 127.0.0.1:5000 | jq .data.deleted.bytes")]
pub(super) struct Collect {
    /// The registry.
    #[arg(value_name = "REGISTRY")]
    host: RegistryHost,
    /// Change nothing, and tell what would go in the end.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Collect {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.collect())
    }

    async fn collect(self) -> Result<(), Failure> {
        // Nothing comes before all is looked at, and to ask again would begin again.
        let client = self.registry.client(Retries { attempts: 1 }, Duration::from_hours(1))?;
        let collected: Collected = client
            .collect(&self.host, self.dry_run)
            .await
            .map_err(|error| not_of_dvcr(&self.host, "collect", &error))?;
        self.output.print(&collected, || text(&collected, self.dry_run))?;
        match collected.unreadable {
            0 => Ok(()),
            number => Err(Failure::Failed(format!(
                "no data was deleted: {number} records of what blobs are made of cannot be read; the log of {} names them",
                self.host
            ))),
        }
    }
}

fn text(collected: &Collected, only_look: bool) -> String {
    let amount = |Amount { count, bytes: size }: Amount| format!("{count} ({})", bytes(size));
    let rows = [
        ("abandoned uploads", collected.uploads),
        ("blobs that no manifest of their repository needs", collected.members),
        ("blobs in no repository", collected.blobs),
        ("stored objects that nothing refers to", collected.data),
    ];
    if only_look {
        let rows = rows.map(|(what, step)| vec![what.to_owned(), amount(step.deleted)]);
        return table(&["", "WOULD GO"], &rows);
    }
    let rows = rows.map(|(what, step)| vec![what.to_owned(), amount(step.deleted), amount(step.condemned)]);
    table(&["", "GONE", "TO GO"], &rows)
}
