//! A disk in an image of this registry, read without the image around it, at any place.
//!
//! The file is found by the headers of its layer, of which only those are read. A compressed layer cannot be read from the
//! middle, so it is refused.

mod layer_reader;

use std::ops::Range;
use std::sync::Arc;

use futures::stream::BoxStream;
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::artifact::{DiskFile, ImageLayer, Platform, Selection, SelectionError, Step, UnpackError, locate};
use crate::disk::Compression;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::registry::{self, BlobExtent, BlobReader, ByteStream, Registry, StoreError};
use layer_reader::LayerReader;

/// A disk in an image of this registry.
#[derive(Debug)]
pub struct BareDisk {
    /// The image's manifest; not an index through which it was found.
    pub manifest: Digest,
    /// The layer that the disk is in.
    pub layer: Digest,
    /// Its file.
    pub file: DiskFile,
    blob: BlobReader,
    /// Where the file begins in its layer.
    offset: u64,
}

/// A disk cannot be read where it is.
#[derive(Debug, thiserror::Error)]
pub enum BareDiskError {
    /// The registry has no such image, or cannot read it.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The reference leads to no image.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// There is no clear disk in it.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Only from its beginning can it be read.
    #[error(
        "layer {layer} is compressed ({compression}), and only uncompressed layers can be read from the middle: pull the image and push it with dvcr import or docker push"
    )]
    Compressed {
        /// The layer.
        layer: Digest,
        /// What with.
        compression: Compression,
    },
    /// The reader of its layers died.
    #[error("{0}")]
    Broken(String),
}

/// Layers of which is remembered where their disk is. Arbitrary.
const REMEMBERED: usize = 1 << 10;

/// Layers that are looked through at once. Each holds a blocking thread, which waits for others.
const LOOKING: usize = 16;

/// The disks in the images of a registry. It remembers where they are in their layers, which never changes: a machine that
/// runs from one asks for it a thousand times a second.
#[derive(Debug)]
pub struct BareDisks {
    registry: Arc<Registry>,
    located: Cache<Digest, (DiskFile, u64)>,
    /// Held by whoever looks through a layer.
    looking: Arc<Semaphore>,
}

impl BareDisks {
    /// The disks of a registry.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, located: Cache::new(REMEMBERED), looking: Arc::new(Semaphore::new(LOOKING)) }
    }

    /// Finds the disk in an image of repository `name`. Of an index, the image for `platform` is taken; without one, the
    /// only image or that for linux/amd64.
    pub async fn open(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        platform: Option<Platform>,
    ) -> Result<BareDisk, BareDiskError> {
        let image = format!("{name}@{reference}");
        let mut selection = Selection::of(image.clone(), platform);
        let mut manifest = self.registry.manifest(name, reference).await?;
        let layers = loop {
            match selection.follow(&manifest.media_type, &manifest.bytes)? {
                Step::Manifest(chosen) => {
                    manifest = self.registry.manifest(name, &Reference::Digest(chosen)).await?;
                }
                Step::Image(image) => break image.layers,
            }
        };
        let mut found: Option<BareDisk> = None;
        for ImageLayer { digest, .. } in &layers {
            let blob = self.registry.open_blob(name, digest).await?;
            let before = found.as_ref().map(|disk| disk.file.clone());
            // Where there are other layers, what is right depends on them too.
            let located = if layers.len() == 1 {
                self.remembered(&blob, digest).await?
            } else {
                self.locate(&blob, digest, before).await?
            };
            if let Some((file, offset)) = located {
                let manifest = manifest.digest.clone();
                found = Some(BareDisk { manifest, layer: digest.clone(), file, blob, offset });
            }
        }
        let reason = "there is no file under disk/ in it".to_owned();
        Ok(found.ok_or(SelectionError::NotAnImage { image, reason })?)
    }

    /// Where the disk's file is in the only layer of an image.
    async fn remembered(
        &self,
        blob: &BlobReader,
        digest: &Digest,
    ) -> Result<Option<(DiskFile, u64)>, BareDiskError> {
        if let Some(located) = self.located.get(digest) {
            return Ok(Some(located));
        }
        let located = self.locate(blob, digest, None).await?;
        if let Some(located) = &located {
            self.located.insert(digest.clone(), located.clone());
        }
        Ok(located)
    }

    /// Where the disk's file is in a layer, if it is in that; `before` is what a lower layer has.
    async fn locate(
        &self,
        blob: &BlobReader,
        digest: &Digest,
        before: Option<DiskFile>,
    ) -> Result<Option<(DiskFile, u64)>, BareDiskError> {
        let turn = Arc::clone(&self.looking).acquire_owned().await;
        locate_in(blob.clone(), digest, before, turn.ok()).await
    }
}

impl BareDisk {
    /// The bytes of `range`, which must lie within the file.
    #[must_use]
    pub fn stream(&self, range: Range<u64>) -> ByteStream {
        self.blob.stream(self.offset + range.start..self.offset + range.end)
    }

    /// Where the file has data, and where zeros that take no space, in order.
    #[must_use]
    pub fn extents(&self) -> BoxStream<'static, Result<BlobExtent, StoreError>> {
        self.blob.extents(self.offset..self.offset + self.file.size)
    }
}

/// Where the disk's file is in a layer, if it is in that.
async fn locate_in(
    blob: BlobReader,
    digest: &Digest,
    before: Option<DiskFile>,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<Option<(DiskFile, u64)>, BareDiskError> {
    let mut reader = LayerReader::of(blob);
    let layer = digest.clone();
    let located = spawn_blocking(move || {
        // Until the thread is free, which a client that goes away does not make it.
        let _turn = turn;
        let located = match reader.peek().map(|start| Compression::detect(start)) {
            Ok(Compression::None) => locate(&mut reader, before.as_ref()),
            Ok(compression) => return Err(BareDiskError::Compressed { layer, compression }),
            Err(error) => Err(error.into()),
        };
        match reader.failure() {
            Some(failure) => Err(registry::Error::from(failure).into()),
            None => Ok(located?),
        }
    });
    located.await.map_err(|error| BareDiskError::Broken(error.to_string()))?
}
