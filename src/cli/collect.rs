//! `dvcr collect`: have a registry take away what nothing needs any more.

use std::time::Duration;

use clap::Args;

use super::output::{OutputArgs, bytes, table};
use super::registry::{RegistryArgs, not_of_dvcr};
use super::{Failure, run_to_end};
use crate::client::Retries;
use crate::oci::RegistryHost;
use crate::registry::{Amount, Collected, Expired};

/// Have a registry take away what nothing needs any more.
///
/// A registry does so by itself now and then; this is for whoever wants to see it, or not to wait. Everything can be pushed and
/// pulled meanwhile, and on every replica. What nothing needs is condemned first, and goes in a collection that begins when the
/// grace is over (the setting `grace`, six hours): a client may have been told that it is there. An image that was deleted takes
/// space for twice the grace, therefore. Images go when somebody deletes them, or by the rules of the setting `retention`: tags that no
/// rule keeps, and images that have had no tag for long. What of that goes is told one by one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr collect --dry-run 127.0.0.1:5000                        what would go in the end, and how much that is
  dvcr collect 127.0.0.1:5000
  dvcr collect --output json 127.0.0.1:5000 | jq .data.deleted.bytes
  dvcr collect --dry-run --output json 127.0.0.1:5000 | jq -r '.expired[] | [.repository, .tag // .digest, .reason] | @tsv'")]
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
        ("tags that no rule keeps", collected.tags),
        ("manifests that nothing keeps, by a rule", collected.manifests),
        ("abandoned uploads", collected.uploads),
        ("blobs that no manifest of their repository needs", collected.members),
        ("blobs in no repository", collected.blobs),
        ("stored objects that nothing refers to", collected.data),
    ];
    let amounts = if only_look {
        let rows = rows.map(|(what, step)| vec![what.to_owned(), amount(step.deleted)]);
        table(&["", "WOULD GO"], &rows)
    } else {
        let rows =
            rows.map(|(what, step)| vec![what.to_owned(), amount(step.deleted), amount(step.condemned)]);
        table(&["", "GONE", "TO GO"], &rows)
    };
    let expired = expired(collected);
    if expired.is_empty() { amounts } else { format!("{expired}\n{amounts}") }
}

/// What goes by rules, one by one.
fn expired(collected: &Collected) -> String {
    if collected.expired.is_empty() {
        return String::new();
    }
    let row = |expired: &Expired| {
        let reference =
            expired.tag.as_ref().map_or_else(|| format!("@{}", expired.digest), |tag| format!(":{tag}"));
        let size = if expired.tag.is_none() { bytes(expired.bytes) } else { String::new() };
        vec![
            format!("{}{reference}", expired.repository),
            expired.rule.to_string(),
            size,
            expired.reason.clone(),
        ]
    };
    let rows: Vec<_> = collected.expired.iter().map(row).collect();
    let listed = table(&["TAG OR IMAGE", "RULE", "SIZE", "REASON"], &rows);
    match collected.not_told {
        0 => listed,
        more => format!("{listed}and {more} more\n"),
    }
}
