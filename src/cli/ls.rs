//! `dvcr ls`: what is in a registry or a repository.

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::output::{OutputArgs, table};
use super::registry::RegistryArgs;
use super::{Failure, run_to_end};
use crate::artifact::{ArtifactError, RemoteImage};
use crate::client::{Client, ClientError};
use crate::oci::{ImageReference, Reference, RegistryHost, RepositoryName};

/// List the repositories of a registry, or the disk images of a repository.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr ls 127.0.0.1:5000                  names of repositories
  dvcr ls 127.0.0.1:5000/disks/noble      tags, with format and sizes
  dvcr ls --output json 127.0.0.1:5000/disks/noble | jq -r '.[].tag'")]
pub(super) struct Ls {
    /// `REGISTRY`, or `REGISTRY/REPOSITORY`.
    #[arg(value_name = "REGISTRY[/REPOSITORY]")]
    place: String,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Image {
    tag: String,
    digest: Option<String>,
    format: Option<String>,
    virtual_size: Option<u64>,
    stored_size: Option<u64>,
}

/// Images that are asked for at once.
const AT_ONCE: usize = 8;

impl Ls {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.list())
    }

    async fn list(self) -> Result<(), Failure> {
        let client = self.registry.default_client()?;
        let place = self.place.trim_end_matches('/');
        if !place.contains('/') {
            let registry: RegistryHost = place.parse().map_err(|e| Failure::Usage(format!("{e}")))?;
            let names = client.repositories(&registry).await.map_err(|e| Failure::Failed(e.to_string()))?;
            let names: Vec<_> = names.iter().map(RepositoryName::as_str).collect();
            return self.output.print(&names, || names.join("\n"));
        }
        let repository: ImageReference = place.parse().map_err(|e| Failure::Usage(format!("{e}")))?;
        let images = images(&client, &repository).await?;
        self.output.print(&images, || {
            let rows: Vec<_> = images.iter().map(Image::row).collect();
            table(&["TAG", "FORMAT", "VIRTUAL SIZE", "STORED SIZE", "DIGEST"], &rows)
        })
    }
}

async fn images(client: &Client, repository: &ImageReference) -> Result<Vec<Image>, Failure> {
    let tags = client.repository_of(repository).tags().await;
    let tags = tags.map_err(|error| match error {
        ClientError::NotFound { .. } => Failure::Failed(format!(
            "the repository {}/{} does not exist",
            repository.registry, repository.repository
        )),
        error => Failure::Failed(error.to_string()),
    })?;
    stream::iter(tags)
        .map(|tag| async move {
            let reference = repository.with_reference(Reference::Tag(tag.clone()));
            let tag = tag.to_string();
            match RemoteImage::resolve(client, &reference, None).await {
                Ok(image) => {
                    let disk = image.labelled();
                    Ok(Image {
                        tag,
                        digest: Some(image.digest.to_string()),
                        format: disk.map(|disk| disk.format.to_string()),
                        virtual_size: disk.map(|disk| disk.virtual_size),
                        stored_size: Some(image.stored_size()),
                    })
                }
                Err(ArtifactError::Client(error))
                    if error.is_transient() || matches!(error, ClientError::Unauthorized { .. }) =>
                {
                    Err(Failure::Failed(error.to_string()))
                }
                // No disk image, or one that is damaged: its name is still there.
                Err(error) => {
                    tracing::debug!(%tag, %error, "cannot look into it");
                    Ok(Image { tag, digest: None, format: None, virtual_size: None, stored_size: None })
                }
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

impl Image {
    fn row(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let size = |size: Option<u64>| or_dash(size.map(|size| BinaryBytes(size).to_string()));
        vec![
            self.tag.clone(),
            or_dash(self.format.clone()),
            size(self.virtual_size),
            size(self.stored_size),
            or_dash(self.digest.clone()),
        ]
    }
}
