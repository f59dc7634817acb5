//! `dvcr inspect`: what a disk image is.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::output::{OutputArgs, bytes, fields};
use super::registry::RegistryArgs;
use super::{Failure, run_to_end};
use crate::artifact::{ArtifactError, Platform, RemoteImage};
use crate::oci::ImageReference;

/// Show what a disk image is: format, sizes, file, labels, digests.
///
/// Images that others made (docker build) are recognised by the first bytes of the disk.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr inspect 127.0.0.1:5000/disks/noble:1
  dvcr inspect --output json 127.0.0.1:5000/disks/noble:1 | jq .virtual_size")]
pub(super) struct Inspect {
    /// The image: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
    #[arg(value_name = "REFERENCE")]
    image: ImageReference,
    /// Which image of an index, OS/ARCHITECTURE.
    #[arg(long)]
    platform: Option<Platform>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Outcome {
    reference: String,
    digest: String,
    media_type: String,
    platform: String,
    layer: Option<Layer>,
    config: Config,
    file: String,
    format: Option<String>,
    virtual_size: Option<u64>,
    size: u64,
    stored_size: u64,
    /// Why the disk cannot be used, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    env: Vec<String>,
}

#[derive(Serialize)]
struct Layer {
    digest: String,
    size: u64,
    media_type: String,
}

#[derive(Serialize)]
struct Config {
    digest: String,
}

impl Inspect {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.inspect())
    }

    async fn inspect(self) -> Result<(), Failure> {
        let client = self.registry.default_client()?;
        let image = RemoteImage::resolve(&client, &self.image, self.platform.as_ref())
            .await
            .map_err(|e| failure(&e))?;
        let disk = image.inspect().await.map_err(|error| failure(&error))?;
        let known = disk.disk.as_ref().ok();
        let outcome = Outcome {
            reference: self.image.to_string(),
            digest: image.digest.to_string(),
            media_type: image.media_type.to_string(),
            platform: format!("{}/{}", image.info.os, image.info.architecture),
            layer: image.layers.last().map(|layer| Layer {
                digest: layer.digest.to_string(),
                size: layer.size,
                media_type: layer.media_type.clone(),
            }),
            config: Config { digest: image.config.to_string() },
            file: format!("disk/{}", disk.file.name),
            format: known.map(|disk| disk.format.to_string()),
            virtual_size: known.map(|disk| disk.virtual_size),
            size: disk.file.size,
            stored_size: image.stored_size(),
            problem: disk.disk.as_ref().err().map(ToString::to_string),
            labels: image.info.labels.clone(),
            annotations: image.annotations.clone(),
            env: image.info.env.clone(),
        };
        self.output.print(&outcome, || outcome.text())
    }
}

impl Outcome {
    fn text(&self) -> String {
        let mut lines = vec![
            ("Image", self.reference.clone()),
            ("Digest", self.digest.clone()),
            ("Platform", self.platform.clone()),
            ("File", format!("{}, {}", self.file, bytes(self.size))),
        ];
        match (&self.format, self.virtual_size, &self.problem) {
            (Some(format), Some(size), _) => {
                lines.extend([("Format", format.clone()), ("Virtual size", bytes(size))]);
            }
            (_, _, Some(problem)) => lines.push(("Problem", problem.clone())),
            _ => {}
        }
        lines.push(("Stored size", bytes(self.stored_size)));
        lines.extend(
            self.layer.iter().map(|layer| ("Layer", format!("{} {}", layer.digest, layer.media_type))),
        );
        lines.push(("Config", self.config.digest.clone()));
        let pairs = |map: &BTreeMap<String, String>| -> Vec<String> {
            map.iter().map(|(key, value)| format!("{key}={value}")).collect()
        };
        lines.extend(pairs(&self.labels).into_iter().map(|pair| ("Label", pair)));
        lines.extend(pairs(&self.annotations).into_iter().map(|pair| ("Annotation", pair)));
        lines.extend(self.env.iter().map(|entry| ("Environment", entry.clone())));
        fields(&lines)
    }
}

fn failure(error: &ArtifactError) -> Failure {
    Failure::judged(error.is_refusal(), error)
}
