//! `dvcr rm`: removes images.

use clap::Args;
use serde::Serialize;

use super::output::OutputArgs;
use super::registry::RegistryArgs;
use super::{Failure, run_to_end};
use crate::client::{Client, ClientError};
use crate::oci::ImageReference;

/// Remove tags, or images by digest.
///
/// A tag is a name: other tags of the same image stay. An image that is removed by its digest loses all its tags.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr rm 127.0.0.1:5000/disks/noble:1
  dvcr rm 127.0.0.1:5000/disks/noble@sha256:9c1f…")]
pub(super) struct Rm {
    /// The images: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
    #[arg(value_name = "REFERENCE", required = true)]
    images: Vec<ImageReference>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Outcome {
    removed: Vec<String>,
}

impl Rm {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.registry.default_client()?;
        let (outcome, failures) = run_to_end(async { Ok(remove(&client, &self.images).await) })?;
        if !outcome.removed.is_empty() {
            self.output.print(&outcome, || {
                let lines: Vec<_> = outcome.removed.iter().map(|name| format!("Removed {name}")).collect();
                lines.join("\n")
            })?;
        }
        if failures.is_empty() { Ok(()) } else { Err(Failure::Failed(failures.join("; "))) }
    }
}

/// Removes what can be removed; one image that cannot does not keep the others.
async fn remove(client: &Client, images: &[ImageReference]) -> (Outcome, Vec<String>) {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for image in images {
        match client.repository_of(image).delete_manifest(&image.reference).await {
            Ok(()) => removed.push(image.to_string()),
            Err(error) => failures.push(explain(image, &error)),
        }
    }
    (Outcome { removed }, failures)
}

/// What is wrong, and what may work instead.
fn explain(image: &ImageReference, error: &ClientError) -> String {
    match error {
        ClientError::Status { status, .. } if matches!(status.as_u16(), 400 | 405 | 501) => {
            let hint = match image.tag() {
                Some(_) => "it may only remove by digest (dvcr inspect shows it), or not at all",
                None => "removing may be switched off there",
            };
            format!("{error} (the registry does not remove {image}: {hint})")
        }
        error => error.to_string(),
    }
}
