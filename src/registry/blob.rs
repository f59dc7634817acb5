//! Blobs, as their repositories see them: get, head, delete.

use std::ops::Range;
use std::sync::Arc;

use futures::stream::BoxStream;
use storage_backends::ByteStream;

use super::extents::{self, BlobExtent};
use super::record::{BlobRecord, Membership};
use super::source::Source;
use super::{ATTEMPTS, Error, Registry, Result, condemn, layout, read, record};
use crate::chunk::Listed;
use crate::oci::{Digest, RepositoryName};

/// A blob that can be read.
#[derive(Debug, Clone)]
pub struct BlobReader {
    source: Arc<Source>,
    record: Arc<BlobRecord>,
}

impl BlobReader {
    /// Bytes in the blob.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// The bytes of `range`, which must lie within the blob. A stream that cannot deliver them fails; it never
    /// ends early.
    #[must_use]
    pub fn stream(&self, range: Range<u64>) -> ByteStream {
        read::stream(&self.source, &self.record, range)
    }

    /// What the registry knows of `range`, which must lie within the blob: where data is and where zeros that take no space,
    /// in order.
    #[must_use]
    pub fn extents(&self, range: Range<u64>) -> BoxStream<'static, storage_backends::Result<BlobExtent>> {
        extents::stream(&self.source, &self.record, range)
    }

    /// The chunks that the blob is made of, and what is in none, in order.
    #[must_use]
    pub fn chunks(&self) -> BoxStream<'static, storage_backends::Result<Listed>> {
        extents::listing(&self.source, &self.record)
    }
}

impl Registry {
    /// The size of a blob of repository `name` (HEAD of end-2).
    pub async fn blob_size(&self, name: &RepositoryName, digest: &Digest) -> Result<u64> {
        // Whoever is told of a blob may count on it for a while.
        match self.assure_member(name, digest).await? {
            Some(member) => Ok(member.size),
            None => Err(unknown(name, digest)),
        }
    }

    /// Opens a blob of repository `name` (end-2).
    pub async fn open_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<BlobReader> {
        self.require_member(name, digest).await?;
        match self.find_blob(digest).await? {
            Some(record) => Ok(BlobReader { source: Arc::clone(&self.source), record: Arc::new(record) }),
            None => Err(unknown(name, digest)),
        }
    }

    /// Takes a blob out of repository `name` (end-10). Other repositories keep it.
    pub async fn delete_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<()> {
        let (store, key) = (self.store.as_ref(), layout::membership(name, digest));
        for _ in 0..ATTEMPTS {
            let found = record::find_stored::<Membership>(store, &key).await?;
            let Some(found) = found else { return Err(unknown(name, digest)) };
            // A request to delete may arrive late, and hit what was pushed again since: a tombstone does not.
            if condemn::bury(store, &key, found.version).await? {
                self.quotas.freed(name);
                return Ok(());
            }
        }
        Err(Error::Record { key, reason: "it changed each time it was to be deleted".to_owned() })
    }

    pub(super) async fn find_member(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Membership>> {
        let found = record::find(self.store.as_ref(), &layout::membership(name, digest)).await?;
        Ok(found.map(|(member, _)| member))
    }

    /// The same, which no collection takes away before long, also if it was about to.
    pub(super) async fn spare_member(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Membership>> {
        condemn::spare(self.store.as_ref(), &layout::membership(name, digest)).await
    }

    /// The same, of a blob that is there.
    ///
    /// A membership is written before it is known that the blob stays ([`join`](Self::join)); whoever wrote it may have died in
    /// between, or is just about to take it back.
    pub(super) async fn assure_member(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Membership>> {
        let Some(member) = self.spare_member(name, digest).await? else { return Ok(None) };
        match condemn::spare::<BlobRecord>(self.store.as_ref(), &layout::blob(digest)).await {
            Ok(None) => Ok(None),
            // What is damaged is a matter for whoever reads it.
            Ok(Some(_)) | Err(Error::Record { .. }) => Ok(Some(member)),
            Err(error) => Err(error),
        }
    }

    async fn require_member(&self, name: &RepositoryName, digest: &Digest) -> Result<()> {
        match self.find_member(name, digest).await? {
            Some(_) => Ok(()),
            None => Err(unknown(name, digest)),
        }
    }

    pub(super) async fn find_blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        let found = record::find(self.store.as_ref(), &layout::blob(digest)).await?;
        Ok(found.map(|(record, _)| record))
    }
}

fn unknown(name: &RepositoryName, digest: &Digest) -> Error {
    Error::BlobUnknown { name: name.clone(), digest: digest.clone() }
}
