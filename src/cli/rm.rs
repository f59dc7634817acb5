//! `dvcr rm`: removes images.

use clap::Args;
use serde::Serialize;

use super::output::OutputArgs;
use super::registry::RegistryArgs;
use super::{Failure, runtime};
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
    /// The images: REGISTRY/REPOSITORY[:TAG][@DIGEST].
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
        let outcome = runtime()?.block_on(remove(&client, &self.images))?;
        self.output.print(&outcome, || {
            let lines: Vec<_> = outcome.removed.iter().map(|name| format!("Removed {name}")).collect();
            lines.join("\n")
        })
    }
}

async fn remove(client: &Client, images: &[ImageReference]) -> Result<Outcome, Failure> {
    let mut removed = Vec::new();
    for image in images {
        client.repository_of(image).delete_manifest(&image.reference).await.map_err(|error| match error {
            ClientError::Status { status, .. } if matches!(status.as_u16(), 400 | 405 | 501) => {
                let hint = match image.tag() {
                    Some(_) => "it may only remove by digest (dvcr inspect shows it), or not at all",
                    None => "removing may be switched off there",
                };
                Failure::Failed(format!("{error} (the registry does not remove {image}: {hint})"))
            }
            error => Failure::Failed(error.to_string()),
        })?;
        removed.push(image.to_string());
    }
    Ok(Outcome { removed })
}
