//! Manifests: stored and served as the bytes that were pushed.

use bytes::Bytes;
use futures::{StreamExt, stream};
use storage_backends::{Condition, Key};

use super::blocking::blocking;
use super::record::{ManifestHeader, Record};
use super::{ATTEMPTS, Error, Registry, Result, layout, manifest_record, record};
use crate::oci::{
    Algorithm, Blob, Digest, InvalidManifest, Manifest, MediaType, Reference, RepositoryName, Tag,
};

/// Blobs of one manifest that are looked up at one time.
const LOOKUPS: usize = 16;

/// When, of a manifest's deletion, what points to it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// While the manifest is there.
    Ahead,
    /// When it is gone.
    Behind,
}

/// A manifest as it was pushed.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Its name.
    pub digest: Digest,
    /// The type it was pushed with.
    pub media_type: MediaType,
    /// Its bytes.
    pub bytes: Bytes,
    pub(super) subject: Option<Digest>,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedManifest {
    /// The manifest's name.
    pub digest: Digest,
    /// Its type.
    pub media_type: MediaType,
    /// The manifest that it refers to, which now lists it.
    pub subject: Option<Digest>,
}

impl Registry {
    /// Reads a manifest (end-3). Whoever is told of one may count on it for a while: if it was about to go, it is not any more.
    pub async fn manifest(&self, name: &RepositoryName, reference: &Reference) -> Result<StoredManifest> {
        let unknown = || Error::ManifestUnknown { name: name.clone(), reference: reference.clone() };
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => self.find_tag(name, tag).await?.ok_or_else(unknown)?,
        };
        let found = self.find_manifest_object(name, &digest).await?.ok_or_else(unknown)?;
        if found.condemned.is_some() {
            match self.spare_manifest(name, &digest).await {
                Ok(true) => {}
                Ok(false) => return Err(unknown()),
                // A store that takes no writes is no reason not to read.
                Err(error) => {
                    tracing::warn!(%error, repository = %name, %digest, "a manifest that is read may go soon");
                }
            }
        }
        Ok(found.manifest)
    }

    /// Stores a manifest and points tags to it (end-7): the tag it is pushed by, or any number of `tags` when it is
    /// pushed by digest.
    ///
    /// Its config and layers must be in the repository. The manifests of an index and the subject need not.
    pub async fn push_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        content_type: Option<MediaType>,
        bytes: Bytes,
    ) -> Result<PushedManifest> {
        let manifest = Manifest::parse(&bytes, content_type)?;
        self.store.room().await?;
        let (algorithm, tags) = match reference {
            Reference::Tag(tag) => (Algorithm::Sha256, std::slice::from_ref(tag)),
            Reference::Digest(expected) => (expected.algorithm(), tags),
        };
        let hashed = bytes.clone();
        let digest = blocking(move || Digest::of(algorithm, &hashed)).await;
        if let Reference::Digest(expected) = reference
            && *expected != digest
        {
            return Err(Error::DigestMismatch { expected: expected.clone(), actual: digest });
        }
        self.require_content(name, &manifest.blobs, &manifest.content).await?;
        let referrer = manifest.referrer(&digest, bytes.len() as u64);
        let subject = manifest.subject;
        let media_type = manifest.media_type;
        let header = ManifestHeader { media_type: media_type.clone(), subject: subject.clone() };
        let stored = manifest_record::encode(&record::encode(&header), &bytes);
        let reserved = self.quotas.take_manifest(name, &digest, stored.len() as u64, tags).await?;
        self.ensure_repository(name).await?;
        let key = layout::manifest(name, &digest);
        for _ in 0..ATTEMPTS {
            self.store.put(&key, stored.clone(), Condition::None).await?;
            if let Some(subject) = &subject {
                self.add_referrer(name, subject, &referrer).await?;
            }
            // A collection that did not see the manifest may have taken a blob meanwhile. Then the manifest stays without this
            // push's tags: somebody else may have pushed it, and the blob, by now.
            self.require_content(name, &manifest.blobs, &manifest.content).await?;
            self.spare_children(name, &header.media_type, &manifest.content).await?;
            for tag in tags {
                self.move_tag(name, tag, &digest).await?;
            }
            // Had somebody deleted the manifest meanwhile, what points to it would point to nothing; and a collection that has not
            // seen what points to it must not take it.
            if self.spare_manifest(name, &digest).await? {
                break;
            }
        }
        reserved.keep();
        Ok(PushedManifest { digest, media_type, subject })
    }

    /// Deletes a manifest and every tag that points to it (end-9 by digest).
    ///
    /// Until the manifest itself goes, the request can be repeated to finish the rest. What a push at the same time
    /// adds is swept up behind it, or that push finds the manifest gone and begins again.
    pub async fn delete_manifest(&self, name: &RepositoryName, digest: &Digest) -> Result<()> {
        let Some(manifest) = self.find_manifest(name, digest).await? else {
            self.delete_tags_of(name, digest, Sweep::Behind).await?;
            return Err(Error::ManifestUnknown {
                name: name.clone(),
                reference: Reference::Digest(digest.clone()),
            });
        };
        for sweep in [Sweep::Ahead, Sweep::Behind] {
            if let Some(subject) = &manifest.subject {
                self.delete_referrer(name, subject, digest, sweep).await?;
            }
            self.delete_tags_of(name, digest, sweep).await?;
            if sweep == Sweep::Ahead {
                self.store.delete(&layout::manifest(name, digest)).await?;
            }
        }
        self.quotas.freed(name);
        Ok(())
    }

    /// Empties a record that points to a manifest, if it does so still.
    ///
    /// Behind the deletion it is emptied only while the manifest is gone. The order is what makes this safe: a push
    /// that stores the manifest again writes the record after it, in another revision, so either the manifest is
    /// seen or the version has changed.
    pub(super) async fn retire<T: Record + Send + 'static>(
        &self,
        key: &Key,
        name: &RepositoryName,
        digest: &Digest,
        sweep: Sweep,
        points_there: impl Fn(&T) -> bool,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let version = match record::find::<T>(self.store.as_ref(), key).await? {
                Some((record, version)) if points_there(&record) => version,
                _ => return Ok(()),
            };
            if sweep == Sweep::Behind && self.has_manifest(name, digest).await? {
                return Ok(());
            }
            match self.store.put(key, Bytes::new(), Condition::Unchanged(version)).await {
                Ok(_) => return Ok(()),
                Err(storage_backends::Error::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // It changed each time we looked, so it was never still there when we struck.
        Ok(())
    }

    /// Makes sure that a manifest's `blobs` are there, and that no collection takes what is there of its `content`.
    async fn require_content(&self, name: &RepositoryName, blobs: &[Blob], content: &[Digest]) -> Result<()> {
        self.require_blobs(name, blobs).await?;
        for digest in content.iter().filter(|digest| !blobs.iter().any(|blob| blob.digest == **digest)) {
            self.spare_member(name, digest).await?;
        }
        Ok(())
    }

    /// Makes sure that no collection takes what an index lists, as far as it is there. Others need not be.
    async fn spare_children(
        &self,
        name: &RepositoryName,
        media_type: &MediaType,
        content: &[Digest],
    ) -> Result<()> {
        if !matches!(media_type.as_str(), MediaType::INDEX | MediaType::DOCKER_LIST) {
            return Ok(());
        }
        let spare = |digest: Digest| async move {
            match self.spare_manifest(name, &digest).await {
                Err(error @ Error::Record { .. }) => {
                    tracing::warn!(%error, "a manifest is passed over");
                    Ok(false)
                }
                spared => spared,
            }
        };
        let mut sparing = stream::iter(content.to_vec()).map(spare).buffer_unordered(LOOKUPS);
        while sparing.next().await.transpose()?.is_some() {}
        Ok(())
    }

    async fn require_blobs(&self, name: &RepositoryName, blobs: &[Blob]) -> Result<()> {
        let mut lookups = stream::iter(blobs.to_vec())
            .map(|blob| async move {
                let found = self.assure_member(name, &blob.digest).await;
                (blob, found)
            })
            .buffered(LOOKUPS);
        let mut missing = Vec::new();
        while let Some((blob, found)) = lookups.next().await {
            match found? {
                Some(member) if member.size == blob.size => {}
                Some(member) => {
                    let reason = format!(
                        "it says that {} has {} bytes, and it has {}",
                        blob.digest, blob.size, member.size
                    );
                    return Err(InvalidManifest { reason }.into());
                }
                None if !self.rules.require_blobs || missing.contains(&blob.digest) => {}
                None => missing.push(blob.digest),
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Error::ManifestBlobUnknown { name: name.clone(), digests: missing })
        }
    }
}
