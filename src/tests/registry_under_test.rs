//! A registry over a store of one's choice, and shorthand for what clients do.

use std::sync::Arc;

use bytes::Bytes;
use dvcr::oci::{Algorithm, Digest, MediaType, RepositoryName};
use dvcr::registry::{Append, Body, BodyError, Error, Registry, Result, Rules, SessionId};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use storage_backends::fault::{Fault, Faulty};
use storage_backends::{Key, Memory, MemoryOptions, Store};

/// Sizes that make kilobytes behave like gigabytes: parts of 1 KiB, 8 to an object, a checkpoint after 4.
pub(crate) const SMALL: MemoryOptions =
    MemoryOptions { part_size: 1 << 10, most_parts: 8, conditional_put: true };

pub(crate) fn rules() -> Rules {
    Rules { inline: 256, checkpoint: 4 << 10, chunk_from: None, ..Rules::default() }
}

/// The same with every blob that is not inline in chunks, in packs of a few, so that all chunks lie scattered.
pub(crate) fn chunked_rules() -> Rules {
    Rules {
        inline: 128,
        chunk_from: Some(0),
        pack: 40 << 10,
        run: 0,
        checkpoint: 1 << 20,
        ..Rules::default()
    }
}

pub(crate) fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::empty(SMALL))
}

/// A registry over `store`, one of several that may share it.
pub(crate) fn registry(store: &Arc<dyn Store>) -> Registry {
    Registry::with_rules(Arc::clone(store), rules())
}

/// A registry over `store` that stores every blob in chunks.
pub(crate) fn chunked(store: &Arc<dyn Store>) -> Registry {
    Registry::with_rules(Arc::clone(store), chunked_rules())
}

/// A registry over a store that can be told to fail.
pub(crate) fn faulty(rules: Rules) -> (Arc<Faulty>, Registry) {
    let faulty = Arc::new(Faulty::new(memory()));
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
    (faulty, Registry::with_rules(store, rules))
}

/// Tries something with each fault at each of its calls to the store in turn: at the first, the second, until there was none to fail,
/// which `tried` says. Side by side, since those that stall take their time.
pub(crate) async fn at_each_call(tried: impl AsyncFn(Fault, usize) -> bool) {
    const WIDTH: usize = 32;
    for fault in Fault::ALL {
        for first in (0..).step_by(WIDTH) {
            assert!(first < 1000, "it never ends");
            let happened = join_all((first..first + WIDTH).map(|skip| tried(fault, skip))).await;
            assert!(happened[0] || first > 0, "it makes no calls");
            if happened.contains(&false) {
                break;
            }
        }
    }
}

/// Whether an object only says that there was one: a tombstone has 16 bytes, and that of a tag or a referrer none.
pub(crate) fn is_tombstone(size: u64) -> bool {
    size == 0 || size == 16
}

/// The keys of what is stored in a folder.
pub(crate) async fn objects(store: &Arc<dyn Store>, folder: &str) -> Vec<Key> {
    let entries = store.list(&Key::parse(folder).unwrap(), None);
    entries.map_ok(|entry| entry.key).try_collect().await.unwrap()
}

pub(crate) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// Bytes that differ from place to place.
pub(crate) fn sample(length: usize) -> Bytes {
    (0..length).map(|i| u8::try_from((i * 7 + i / 251) % 251).unwrap()).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A body of these bytes, in pieces as a connection would deliver them.
pub(crate) fn body(bytes: &Bytes) -> Body {
    let pieces: Vec<_> = bytes.chunks(700).map(Bytes::copy_from_slice).map(Ok).collect();
    stream::iter(pieces).boxed()
}

/// A body that breaks off behind these bytes.
pub(crate) fn broken_body(bytes: &Bytes) -> Body {
    body(bytes).chain(stream::once(async { Err(BodyError::Interrupted) })).boxed()
}

pub(crate) fn at(start: u64) -> Append {
    Append { start: Some(start), length: None }
}

/// What clients do, in a line each.
pub(crate) trait Client {
    async fn begin(&self, repository: &str) -> SessionId;
    async fn append_bytes(&self, repository: &str, id: SessionId, start: u64, bytes: &Bytes) -> Result<u64>;
    async fn finish(&self, repository: &str, id: SessionId, digest: &Digest) -> Result<()>;
    async fn push(&self, repository: &str, bytes: &Bytes) -> Result<Digest>;
    async fn pull(&self, repository: &str, digest: &Digest) -> Result<Bytes>;
    async fn push_image(&self, repository: &str, tag: &str, layer: &Bytes) -> Result<Digest>;
}

impl Client for Registry {
    async fn begin(&self, repository: &str) -> SessionId {
        self.begin_upload(&name(repository), Algorithm::Sha256).await.unwrap().id
    }

    async fn append_bytes(&self, repository: &str, id: SessionId, start: u64, bytes: &Bytes) -> Result<u64> {
        Ok(self.append(&name(repository), id, at(start), &mut body(bytes)).await?.length)
    }

    async fn finish(&self, repository: &str, id: SessionId, digest: &Digest) -> Result<()> {
        let none = &mut body(&Bytes::new());
        self.finish_upload(&name(repository), id, Append::default(), none, digest).await
    }

    async fn push(&self, repository: &str, bytes: &Bytes) -> Result<Digest> {
        let digest = sha256(bytes);
        self.push_blob(&name(repository), Append::default(), &mut body(bytes), &digest).await?;
        Ok(digest)
    }

    async fn pull(&self, repository: &str, digest: &Digest) -> Result<Bytes> {
        let blob = self.open_blob(&name(repository), digest).await?;
        let pieces: Vec<Bytes> = blob.stream(0..blob.size()).try_collect().await.map_err(Error::Store)?;
        Ok(pieces.concat().into())
    }

    async fn push_image(&self, repository: &str, tag: &str, layer: &Bytes) -> Result<Digest> {
        let config = Bytes::from_static(b"{}");
        let config_digest = self.push(repository, &config).await?;
        let layer_digest = self.push(repository, layer).await?;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::IMAGE,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": 2 },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len() }],
        });
        let bytes = Bytes::from(manifest.to_string());
        let reference = tag.parse().unwrap();
        Ok(self.push_manifest(&name(repository), &reference, &[], None, bytes).await?.digest)
    }
}
