//! A manifest as an object of the store: one line of JSON, then its bytes.
//!
//! The line says, too, whether it is condemned ([`condemn`](super::condemn)): by a rule of retention, since no tag and nothing else
//! needs it. Whoever begins to need a manifest reads it behind having said so, and takes that back.

use bytes::Bytes;
use storage_backends::{Condition, Object, Version};

use super::manifest::StoredManifest;
use super::record::{self, ManifestHeader};
use super::{ATTEMPTS, Error, Registry, Result, layout};
use crate::oci::{Digest, RepositoryName};

/// A manifest, and what is known of its object.
#[derive(Debug)]
pub(super) struct ManifestObject {
    pub(super) manifest: StoredManifest,
    /// Since when it is condemned, in milliseconds since 1970.
    pub(super) condemned: Option<u64>,
    /// The state to bury.
    pub(super) version: Version,
}

/// The bytes of the object.
pub(super) fn encode(header: &Bytes, manifest: &[u8]) -> Bytes {
    Bytes::from([header, &b"\n"[..], manifest].concat())
}

/// The header and the bytes of a manifest that are stored for `digest`.
fn split(
    name: &RepositoryName,
    digest: &Digest,
    stored: &Bytes,
) -> Result<(ManifestHeader, Option<u64>, Bytes)> {
    let key = layout::manifest(name, digest);
    let Some(end) = stored.iter().position(|b| *b == b'\n') else {
        return Err(Error::Record { key, reason: "it has no header".to_owned() });
    };
    let (header, condemned) = record::decode_condemned(&key, &stored[..end])?;
    Ok((header, condemned, stored.slice(end + 1..)))
}

impl Registry {
    async fn manifest_object(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Object>> {
        match self.store.get(&layout::manifest(name, digest)).await {
            Ok(object) if record::is_tombstone(object.bytes.len() as u64) => Ok(None),
            Ok(object) => Ok(Some(object)),
            Err(storage_backends::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn has_manifest(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        Ok(self.manifest_object(name, digest).await?.is_some())
    }

    pub(super) async fn find_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<StoredManifest>> {
        Ok(self.find_manifest_object(name, digest).await?.map(|found| found.manifest))
    }

    /// The same, with what is known of its object.
    pub(super) async fn find_manifest_object(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<ManifestObject>> {
        let Some(stored) = self.manifest_object(name, digest).await? else { return Ok(None) };
        let (manifest, condemned) = Self::decode_object(name, digest, &stored)?;
        Ok(Some(ManifestObject { manifest, condemned, version: stored.version }))
    }

    /// A manifest out of what is stored under its key.
    pub(super) fn decode_manifest(
        name: &RepositoryName,
        digest: &Digest,
        stored: &Object,
    ) -> Result<StoredManifest> {
        Self::decode_object(name, digest, stored).map(|(manifest, _)| manifest)
    }

    fn decode_object(
        name: &RepositoryName,
        digest: &Digest,
        stored: &Object,
    ) -> Result<(StoredManifest, Option<u64>)> {
        let (header, condemned, bytes) = split(name, digest, &stored.bytes)?;
        // Neither served nor believed.
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            let key = layout::manifest(name, digest);
            return Err(Error::Record { key, reason: "it is not what was pushed".to_owned() });
        }
        let ManifestHeader { media_type, subject } = header;
        Ok((StoredManifest { digest: digest.clone(), media_type, bytes, subject }, condemned))
    }

    /// Condemns a manifest at some time, in milliseconds since 1970, unless it is so already. Says whether it is, by us.
    pub(super) async fn condemn_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        at: u64,
    ) -> Result<bool> {
        let key = layout::manifest(name, digest);
        let Some(stored) = self.manifest_object(name, digest).await? else { return Ok(false) };
        let (header, condemned, bytes) = split(name, digest, &stored.bytes)?;
        if condemned.is_some() {
            return Ok(false);
        }
        let condemned = encode(&record::encode_condemned(&header, at), &bytes);
        let condition = Condition::Unchanged(stored.version);
        Ok(record::put_unique(self.store.as_ref(), &key, condemned, condition).await?.is_some())
    }

    /// Makes sure that no collection takes a manifest away before long, also if it was about to. Says whether it is there.
    pub(super) async fn spare_manifest(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        let key = layout::manifest(name, digest);
        for _ in 0..ATTEMPTS {
            let Some(stored) = self.manifest_object(name, digest).await? else { return Ok(false) };
            let (header, condemned, bytes) = split(name, digest, &stored.bytes)?;
            if condemned.is_none() {
                return Ok(true);
            }
            let spared = encode(&record::encode(&header), &bytes);
            match self.store.put(&key, spared, Condition::Unchanged(stored.version)).await {
                Ok(_) => return Ok(true),
                Err(storage_backends::Error::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Record { key, reason: "it changed each time it was written".to_owned() })
    }
}
