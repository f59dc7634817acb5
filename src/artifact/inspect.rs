//! [`RemoteDisk`]: what the disk in an image is, by its labels or else by its first bytes.

use super::{ArtifactError, DiskFile, DiskStream, Fetch, LABEL_FORMAT, LABEL_VIRTUAL_SIZE, RemoteImage};
use crate::client::Connections;
use crate::disk::{Depth, Disk, Format, Limits, Probe, Refusal};

/// The disk in an image.
#[derive(Debug, Clone)]
pub struct RemoteDisk {
    /// Its file.
    pub file: DiskFile,
    /// What it is, or why it is none that can be used.
    pub disk: Result<Disk, Refusal>,
}

impl RemoteImage {
    /// The disk by the image's labels, which `dvcr import` and Deckhouse's importer write.
    #[must_use]
    pub fn labelled(&self) -> Option<Disk> {
        let labels = &self.info.labels;
        let format: Format = labels.get(LABEL_FORMAT)?.parse().ok()?;
        let virtual_size = labels.get(LABEL_VIRTUAL_SIZE)?.parse().ok().filter(|&size| size > 0)?;
        Some(Disk { format, virtual_size })
    }

    /// The disk by the image's labels or, where it has none, by its first bytes.
    pub async fn inspect(&self) -> Result<RemoteDisk, ArtifactError> {
        let stream = self.disk(unlimited(), Fetch::over(Connections(1))).await?;
        match self.labelled() {
            Some(disk) => Ok(RemoteDisk { file: stream.file, disk: Ok(disk) }),
            None => probe(stream).await,
        }
    }

    /// The disk by its first bytes, whatever the labels say.
    pub async fn probe(&self) -> Result<RemoteDisk, ArtifactError> {
        probe(self.disk(unlimited(), Fetch::over(Connections(1))).await?).await
    }
}

async fn probe(mut stream: DiskStream) -> Result<RemoteDisk, ArtifactError> {
    let file = stream.file.clone();
    let mut probe = Probe::new(unlimited(), Depth::Header, Some(file.size));
    let mut position = 0;
    while probe.wants().is_some_and(|wanted| wanted.start < position + NEAR) {
        let Some(piece) = stream.content.recv().await else { break };
        let piece = piece?;
        position += piece.len() as u64;
        if let Err(refusal) = probe.update(&piece) {
            return Ok(RemoteDisk { file, disk: Err(refusal) });
        }
    }
    // Of a fixed VHD the first bytes say nothing; without reading all of it, it passes for raw.
    let format = probe.format().unwrap_or(Format::Raw);
    let raw = Disk { format, virtual_size: file.size };
    let disk = match probe.wants() {
        Some(_) => Ok(raw),
        None => probe.skip(file.size - position).and_then(|()| probe.finish()),
    };
    Ok(RemoteDisk { file, disk })
}

/// Headers further away than this are not worth the reading.
const NEAR: u64 = 16 << 20;

/// Whoever looks at an image, or takes it out, takes it as it is.
pub(crate) fn unlimited() -> Limits {
    Limits { virtual_size: u64::MAX, expanded_size: u64::MAX, ratio: u64::MAX }
}
