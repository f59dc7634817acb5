//! `dvcr stats`: what a registry holds, and what that costs.

use std::time::Duration;

use clap::Args;
use indicatif::BinaryBytes;

use super::output::{OutputArgs, table};
use super::registry::{RegistryArgs, not_of_dvcr};
use super::{Failure, run_to_end};
use crate::client::Retries;
use crate::oci::RegistryHost;
use crate::registry::{QuotaStats, Stats as Held};

/// Show how much a registry holds, how much of it is different, and what each repository costs.
///
/// Bytes of a repository's own are stored for it and for no other one: so many would be free if it were deleted. The registry
/// reads what it knows of every image, which takes a minute or so for a terabyte.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr stats 127.0.0.1:5000
  dvcr stats --output json 127.0.0.1:5000 | jq '.repositories | sort_by(-.exclusive_bytes) | .[:10]'")]
pub(super) struct Stats {
    /// The registry.
    #[arg(value_name = "REGISTRY")]
    host: RegistryHost,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Stats {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.show())
    }

    async fn show(self) -> Result<(), Failure> {
        // Nothing comes before all is counted, and to ask again would begin again.
        let client = self.registry.client(Retries { attempts: 1 }, Duration::from_hours(1))?;
        let held: Held =
            client.stats(&self.host).await.map_err(|error| not_of_dvcr(&self.host, "count", &error))?;
        self.output.print(&held, || text(&held))
    }
}

fn text(held: &Held) -> String {
    let size = |bytes| BinaryBytes(bytes).to_string();
    let (blobs, repositories) = (held.blobs, held.repositories.len());
    let sums = [
        ["logical", &size(held.logical_bytes), &format!("{blobs} blobs, {repositories} repositories")],
        ["different", &size(held.different_bytes), &format!("1/{:.2} of logical", held.dedup_ratio)],
        ["stored", &size(held.stored_bytes), &format!("1/{:.2} of different", held.compression_ratio)],
        [
            "unreferenced",
            &size(held.unreferenced_bytes),
            "uploads that are not finished, and what was deleted",
        ],
    ];
    let sums: Vec<Vec<String>> = sums.map(|row| row.map(ToOwned::to_owned).to_vec()).to_vec();
    let rows: Vec<Vec<String>> = held
        .repositories
        .iter()
        .map(|repository| {
            let (logical, own) = (size(repository.logical_bytes), size(repository.exclusive_bytes));
            vec![repository.name.clone(), repository.blobs.to_string(), logical, own]
        })
        .collect();
    let sums = table(&["", "BYTES", ""], &sums);
    let quotas = quotas(&held.quotas);
    format!("{sums}\n\n{quotas}{}", table(&["REPOSITORY", "BLOBS", "LOGICAL", "OWN"], &rows))
}

/// A table of the quotas, with the line that parts it from the next; nothing if there are none.
fn quotas(quotas: &[QuotaStats]) -> String {
    if quotas.is_empty() {
        return String::new();
    }
    let of = |used: String, limit: Option<String>| [used, limit.unwrap_or_else(|| "any".to_owned())];
    let row = |quota: &QuotaStats| {
        let bytes = |bytes: u64| BinaryBytes(bytes).to_string();
        let [used, limit] = of(bytes(quota.used_bytes), quota.limit_bytes.map(bytes));
        let [tags, most] = of(quota.used_tags.to_string(), quota.limit_tags.map(|tags| tags.to_string()));
        vec![quota.name.clone(), used, limit, tags, most]
    };
    let rows: Vec<Vec<String>> = quotas.iter().map(row).collect();
    format!("{}\n\n", table(&["QUOTA", "USED", "OF", "TAGS", "OF"], &rows))
}
