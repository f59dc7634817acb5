//! Blobs that are there, stored in another way: in chunks, whole again, or out of packs that are to go ([`sparse`],
//! [`dense`]).
//!
//! While a blob is rewritten it is read as ever. Its record changes at once from the old extents to the new ones, when these are
//! complete and have the digest of the blob; a crash at any point leaves one or the other, and data that nothing refers to. What
//! the old extents were stays until it is collected, for whoever is still reading.

mod compactor;
mod dense;
mod sparse;

use futures::{StreamExt as _, TryStreamExt as _};
use storage_backends::{Condition, Version};

use super::ingest::{BodyError, Ingest};
use super::record::{BlobRecord, Extent};
use super::session::Session;
use super::{Error, Registry, Result, Rules, layout, read, record};
use crate::chunk;
use crate::oci::{Digest, RepositoryName};
pub use compactor::{Compacted, Compactor};

/// Bytes by which content is known to be compressed.
const HEAD: u64 = 64 << 10;

/// How blobs are stored that are not small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In chunks, each of them once, except for what is compressed.
    Chunks,
    /// As they are.
    Whole,
}

impl Registry {
    /// The blobs that are not stored in a form and could be, with their sizes. `progress` is told how many have been looked at.
    pub async fn not_in_form(&self, form: Form, progress: impl Fn(u64) + Send) -> Result<Vec<(Digest, u64)>> {
        let (mut found, mut looked) = (Vec::new(), 0);
        let mut keys = self.store.list(&layout::blobs(), None);
        while let Some(entry) = keys.try_next().await? {
            let Some(digest) = layout::blob_digest(&entry.key) else { continue };
            looked += 1;
            progress(looked);
            if let Some(record) = self.find_blob(&digest).await?
                && self.can_change(&record, form)
            {
                found.push((digest, record.size));
            }
        }
        Ok(found)
    }

    /// Stores a blob in a form; `false` if it is so already, or cannot be. `progress` is told how many bytes have passed.
    pub async fn rewrite(
        &self,
        digest: &Digest,
        form: Form,
        progress: impl Fn(u64) + Send + 'static,
    ) -> Result<bool> {
        let store = self.store.as_ref();
        let Some((old, version)) = record::find::<BlobRecord>(store, &layout::blob(digest)).await? else {
            return Ok(false);
        };
        if !self.can_change(&old, form) || form == Form::Chunks && self.is_compressed(&old).await? {
            return Ok(false);
        }
        let mut session = Session::transient(&nowhere(), digest.algorithm());
        let mut ingest =
            Ingest::resume(&self.store, self.rules_of(form), &self.index, &self.claims, &mut session).await?;
        let unreadable = |error: storage_backends::Error| BodyError::Refused(error.to_string());
        let mut passed = 0;
        let body = read::stream(&self.source, &old, 0..old.size).inspect_ok(move |piece| {
            passed += piece.len() as u64;
            progress(passed);
        });
        let mut body = body.map_err(unreadable).boxed();
        let new = match self.take_in(&mut ingest, &mut body, &mut session, digest, old.size).await {
            Ok(extents) => BlobRecord { size: old.size, extents },
            Err(error) => {
                ingest.abandon().await;
                return Err(error);
            }
        };
        if self.can_change(&new, form) {
            // It turned out to be what has no other form.
            ingest.abandon().await;
            return Ok(false);
        }
        self.replace(digest, version, new, ingest, session).await
    }

    /// Makes the blob what was taken in, unless it was deleted or rewritten since it had that version. Says whether it did.
    async fn replace(
        &self,
        digest: &Digest,
        version: Version,
        new: BlobRecord,
        mut ingest: Ingest,
        mut session: Session,
    ) -> Result<bool> {
        let store = self.store.as_ref();
        if let Err(error) = ingest.announce(&mut session, digest).await {
            // No record refers to it, nor will.
            self.forget(&session).await;
            ingest.abandon().await;
            return Err(error);
        }
        let bytes = record::encode_unique(&new);
        let is_ours = match store.put(&layout::blob(digest), bytes, Condition::Unchanged(version)).await {
            Ok(_) => true,
            // Our own write, whose reply was lost, or somebody else's.
            Err(refused) => match self.find_blob(digest).await? {
                Some(found) if found == new => true,
                _ if refused.is_refusal() => false,
                _ => return Err(refused.into()),
            },
        };
        self.forget(&session).await;
        if is_ours {
            self.index.publish(new.recipes()).await;
        } else {
            ingest.abandon().await;
        }
        Ok(is_ours)
    }

    async fn take_in(
        &self,
        ingest: &mut Ingest,
        body: &mut super::Body,
        session: &mut Session,
        digest: &Digest,
        size: u64,
    ) -> Result<Vec<Extent>> {
        ingest.receive(body, Some(size), session).await?;
        let (actual, extents) = ingest.finish().await?;
        if actual == *digest {
            Ok(extents)
        } else {
            Err(Error::DigestMismatch { expected: digest.clone(), actual })
        }
    }

    /// Whether a blob is not stored in a form, and large enough to be.
    fn can_change(&self, record: &BlobRecord, form: Form) -> bool {
        let any = |is: fn(&Extent) -> bool| record.extents.iter().any(is);
        match form {
            Form::Chunks => {
                let large = self.rules_of(form).chunk_from.is_some_and(|from| record.size > from);
                large && any(|extent| matches!(extent, Extent::Data { .. }))
            }
            Form::Whole => any(|extent| matches!(extent, Extent::Chunks { .. })),
        }
    }

    /// The rules by which blobs are stored in a form.
    fn rules_of(&self, form: Form) -> Rules {
        let chunk_from = match form {
            Form::Chunks => self.rules.chunk_from.or(Rules::default().chunk_from),
            Form::Whole => None,
        };
        Rules { chunk_from, ..self.rules }
    }

    async fn is_compressed(&self, record: &BlobRecord) -> Result<bool> {
        let head = read::stream(&self.source, record, 0..record.size.min(HEAD));
        Ok(chunk::is_compressed(&head.try_collect::<Vec<_>>().await?))
    }
}

/// The name of a repository, for a session that nobody can come back to.
fn nowhere() -> RepositoryName {
    "rewritten".parse().unwrap_or_else(|_| unreachable!("it is a name"))
}
