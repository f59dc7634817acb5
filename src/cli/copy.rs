//! `dvcr copy`: an image from one place to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use serde::Serialize;

use super::output::{OutputArgs, bytes, fields};
use super::progress::{ProgressArgs, Snapshot};
use super::registry::RegistryArgs;
use super::{Failure, run_to_end};
use crate::client::copy;
use crate::oci::ImageReference;

/// Copy an image within a registry or to another one, as it is.
///
/// Digests stay. Layers that are there are not sent; within one registry they are mounted. An index is copied with
/// all the images that it names.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr copy 127.0.0.1:5000/disks/noble:1 127.0.0.1:5000/disks/noble:stable
  dvcr copy quay.io/containerdisks/fedora:41 127.0.0.1:5000/mirror/fedora:41")]
pub(super) struct Copy {
    /// The image.
    source: ImageReference,
    /// Where it goes.
    destination: ImageReference,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Outcome {
    source: String,
    destination: String,
    digest: String,
    blobs: Blobs,
    bytes: u64,
    reused: u64,
}

#[derive(Serialize)]
struct Blobs {
    copied: usize,
    mounted: usize,
    present: usize,
}

impl Copy {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.copy())
    }

    async fn copy(self) -> Result<(), Failure> {
        let client = self.registry.default_client()?;
        let (from, to) = (client.repository_of(&self.source), client.repository_of(&self.destination));
        let sent = Arc::new(AtomicU64::new(0));
        let look = || {
            let done = sent.load(Ordering::Relaxed);
            Snapshot { phase: "copying", done, total: None, fraction: None, in_all: done }
        };
        let work = copy(&from, &self.source.reference, &to, &self.destination.reference, &sent);
        let (digest, copied) = self
            .progress
            .show(look, work)
            .await
            .map_err(|error| Failure::judged(error.is_refusal(), &error))?;
        let outcome = Outcome {
            source: self.source.to_string(),
            destination: self.destination.to_string(),
            digest: digest.to_string(),
            blobs: Blobs { copied: copied.copied, mounted: copied.mounted, present: copied.present },
            bytes: copied.bytes,
            reused: copied.reused,
        };
        self.output.print(&outcome, || {
            let Blobs { copied, mounted, present } = outcome.blobs;
            fields(&[
                ("Image", outcome.destination.clone()),
                ("Digest", outcome.digest.clone()),
                ("Blobs", format!("{copied} copied, {mounted} mounted, {present} there already")),
                ("Sent", bytes(outcome.bytes)),
                ("Reused", format!("{}, which the registry had in other images", bytes(outcome.reused))),
            ])
        })
    }
}
