//! [`copy`]: an image from one place to another, byte for byte, so that its digests stay.
//!
//! What is there is not sent; within one registry blobs are mounted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use oci_spec::image::ImageIndex;
use tokio::sync::mpsc;

use super::held::SMALL;
use super::{
    BlobFeed, BlobReader, BlobUpload, ClientError, Connections, Held, RemoteManifest, Repository, UploadError,
};
use crate::oci::{Blob, Digest, Hasher, Manifest, MediaType, Reference, Tag};

/// How often a registry may lose what it was sent.
const REWINDS: u32 = 5;

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copied {
    /// Blobs that were sent.
    pub copied: usize,
    /// Blobs that the registry took from its other repository.
    pub mounted: usize,
    /// Blobs that were there.
    pub present: usize,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Bytes that were not sent, because the registry had them in other images.
    pub reused: u64,
}

/// Copies the image `reference` of `from` to `to`, under the name `name`; an index with all that it names.
/// Gives its digest. `sent` counts bytes while it goes on.
pub async fn copy(
    from: &Repository,
    reference: &Reference,
    to: &Repository,
    name: &Reference,
    sent: &Arc<AtomicU64>,
) -> Result<(Digest, Copied), ClientError> {
    let manifest = from.manifest(reference).await?;
    let digest = manifest.digest.clone();
    if let Reference::Digest(wanted) = name
        && *wanted != digest
    {
        let what = to.called(name);
        return Err(ClientError::WrongDigest { what, expected: wanted.clone(), actual: digest });
    }
    let tag = match name {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(_) => None,
    };
    let mut copier =
        Copier { from, to, tag, sent, held: None, done: BTreeSet::new(), copied: Copied::default() };
    copier.manifest(manifest, name).await?;
    Ok((digest, copier.copied))
}

struct Copier<'a> {
    from: &'a Repository,
    to: &'a Repository,
    tag: Option<&'a Tag>,
    sent: &'a Arc<AtomicU64>,
    /// What the registry has in other images, once it was asked.
    held: Option<Arc<Held>>,
    done: BTreeSet<Digest>,
    copied: Copied,
}

impl Copier<'_> {
    fn manifest<'a>(
        &'a mut self,
        manifest: RemoteManifest,
        name: &'a Reference,
    ) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move {
            let wrong = |reason: String| ClientError::Protocol { url: self.from.called(name), reason };
            let parsed = Manifest::parse(&manifest.bytes, Some(manifest.media_type.clone()))
                .map_err(|error| wrong(error.to_string()))?;
            if matches!(manifest.media_type.as_str(), MediaType::INDEX | MediaType::DOCKER_LIST) {
                let index: ImageIndex =
                    serde_json::from_slice(&manifest.bytes).map_err(|error| wrong(error.to_string()))?;
                for child in index.manifests() {
                    let digest: Digest = child
                        .digest()
                        .to_string()
                        .parse()
                        .map_err(|error: crate::oci::InvalidDigest| wrong(error.to_string()))?;
                    if self.done.insert(digest.clone()) {
                        let reference = Reference::Digest(digest);
                        let child = self.from.manifest(&reference).await?;
                        self.manifest(child, &reference).await?;
                    }
                }
            }
            for blob in &parsed.blobs {
                if self.done.insert(blob.digest.clone()) {
                    self.blob(blob).await?;
                }
            }
            self.to.put_manifest(name, &manifest.media_type, manifest.bytes).await
        })
    }

    async fn blob(&mut self, blob: &Blob) -> Result<(), ClientError> {
        if self.to.has_blob(&blob.digest).await? {
            self.copied.present += 1;
            return Ok(());
        }
        let is_same_registry = self.from.registry() == self.to.registry();
        if is_same_registry && self.to.mount(&blob.digest, self.from.name()).await? {
            self.copied.mounted += 1;
            return Ok(());
        }
        let before = self.sent.load(Ordering::Relaxed);
        let mut held = None;
        for is_last in [false, true] {
            let mut upload = BlobUpload::begin(self.to.clone()).await?;
            if upload.takes_delta() && !is_last && blob.size >= SMALL {
                held = Some(self.held(blob.size).await);
            }
            match self.stream(blob, &mut upload, held.take(), before).await {
                Ok(()) => {
                    self.copied.reused += upload.copied();
                    self.copied.bytes += blob.size - upload.copied();
                    break;
                }
                Err(error) if upload.copied() > 0 && error.is_wrong_digest() && !is_last => {
                    tracing::info!(%error, "what was copied is of no use: sending all of it");
                }
                Err(error) => {
                    // The session is of no use to anybody; what it was about is the first error.
                    let _ = upload.cancel().await;
                    return Err(error);
                }
            }
        }
        self.copied.copied += 1;
        Ok(())
    }

    async fn held(&mut self, size: u64) -> Arc<Held> {
        if let Some(held) = &self.held {
            return Arc::clone(held);
        }
        let held = Arc::new(Held::gather(self.to, self.tag, size).await);
        Arc::clone(self.held.insert(held))
    }

    async fn stream(
        &self,
        blob: &Blob,
        upload: &mut BlobUpload,
        mut held: Option<Arc<Held>>,
        before: u64,
    ) -> Result<(), ClientError> {
        for attempt in 0.. {
            let mut reader =
                BlobReader::open(self.from.clone(), blob.digest.clone(), blob.size, Connections::default())
                    .await?;
            let (sender, receiver) = mpsc::channel(16);
            let progress = Arc::new(AtomicU64::new(0));
            let feed = BlobFeed::new(receiver, blob.size, Arc::clone(&progress)).without(held.clone());
            let (fetched, to_hash) = mpsc::channel(16);
            let expected = blob.digest.clone();
            let hash = tokio::task::spawn_blocking(move || hash(&expected, to_hash, &sender));
            let read = async {
                while let Some(piece) = reader.next().await? {
                    self.sent.store(before + progress.load(Ordering::Relaxed), Ordering::Relaxed);
                    if fetched.send(piece).await.is_err() {
                        break;
                    }
                }
                drop(fetched);
                let actual = hash.await.map_err(|error| ClientError::Setup(error.to_string()))?;
                match actual.filter(|actual| *actual != blob.digest) {
                    None => Ok(()),
                    Some(actual) => {
                        let (registry, name) = (self.from.registry(), self.from.name());
                        let what = format!("a layer of {registry}/{name}");
                        Err(ClientError::WrongDigest { what, expected: blob.digest.clone(), actual })
                    }
                }
            };
            let mut nobody = |_: &_| {};
            let (read, sent) = tokio::join!(read, upload.send(feed, &mut nobody));
            match sent {
                Ok(()) => {
                    read?;
                    break;
                }
                Err(UploadError::Rewind) if attempt < REWINDS => {}
                Err(UploadError::WantsAll) if attempt < REWINDS => held = Some(Arc::default()),
                Err(UploadError::Rewind | UploadError::WantsAll) => {
                    let reason = "it loses the upload again and again".to_owned();
                    return Err(ClientError::Protocol { url: self.to.registry().to_string(), reason });
                }
                Err(UploadError::Client(error)) => return Err(error),
                Err(UploadError::Abandoned) => {
                    read?;
                    let reason = format!("{} is shorter than its manifest says", blob.digest);
                    return Err(ClientError::Protocol { url: self.from.registry().to_string(), reason });
                }
            }
        }
        self.sent.store(before + blob.size, Ordering::Relaxed);
        upload.finish(&blob.digest).await
    }
}

/// Hands pieces on and hashes them; the digest of all of them, unless nobody takes them any more.
fn hash(expected: &Digest, mut pieces: mpsc::Receiver<Bytes>, next: &mpsc::Sender<Bytes>) -> Option<Digest> {
    let mut hasher = Hasher::new(expected.algorithm());
    while let Some(piece) = pieces.blocking_recv() {
        hasher.update(&piece);
        next.blocking_send(piece).ok()?;
    }
    Some(hasher.finish())
}
