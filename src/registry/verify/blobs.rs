//! The data of blobs: whether it is there, and whether it is right.
//!
//! Blobs are taken in the order of their digests, so that it can be said where to go on. What is stored whole is compared with its
//! digest; of what is stored in chunks each chunk is compared with its hash where it was not seen yet. Nothing that is kept in
//! memory for readers is used, and nothing that is read is kept there.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::{Key, Object};
use uuid::Uuid;

use super::progress::Progress;
use super::records::{Owners, Read};
use super::{Depth, Kind, Report, Unheard, Verification, Verified, told};
use crate::oci::{Digest, Hasher, RepositoryName};
use crate::registry::blocking::blocking;
use crate::registry::recipe::{Entry, Recipe};
use crate::registry::record::{BlobRecord, Extent, is_tombstone};
use crate::registry::source::Source;
use crate::registry::stored::Stored;
use crate::registry::{Error, LOOKUPS, Registry, Result, layout, read, read_chunks};

/// What is wrong with a blob.
#[derive(Debug)]
struct Damage {
    reason: String,
    /// The pack, or whatever else it is, that is damaged or missing.
    object: Option<Uuid>,
}

/// The record of a blob that is damaged, its recipes, and the damage.
type Damaged = (Object, Vec<Uuid>, Damage);

/// How a blob is.
#[derive(Debug)]
enum State {
    /// As it should be, or it is not there any more.
    Right,
    Damaged(Damage),
}

impl Registry {
    /// Looks at the data of all blobs.
    pub(super) async fn verify_blobs(
        &self,
        wanted: Verification,
        owners: &Owners,
        report: &mut Report<'_>,
    ) -> Result<Result<(), Unheard>> {
        let blobs = self.sizes_of_blobs().await?;
        let stored = self.stored().await?;
        let mut progress = self.resume_verification(wanted).await?;
        let number = blobs.len() as u64;
        let done = blobs.partition_point(|(digest, _)| progress.after().is_some_and(|after| digest <= after));
        let bytes: u64 = blobs.iter().map(|(_, size)| size).sum();
        report.passed = blobs[..done].iter().map(|(_, size)| size).sum();
        let looked = async {
            report.say(Verified::Begins { blobs: number, bytes, passed: report.passed }).await?;
            for (digest, size) in blobs.into_iter().skip(done) {
                let owners = owners.get(&digest).map_or(&[][..], Vec::as_slice);
                self.verify_blob(wanted, &digest, owners, &stored, &mut progress, report).await?;
                report.tally.blobs.add(size);
                report.pass(size).await?;
                if let Err(error) = self.pass_verified(wanted, &mut progress, digest).await {
                    tracing::warn!(%error, "cannot write down how far a verification is");
                }
            }
            Ok(())
        };
        if let Err(unheard) = looked.await {
            if progress.after().is_some() && !wanted.only_look && wanted.depth != Depth::Quick {
                self.save_verification(&mut progress).await?;
            }
            return Ok(Err(unheard));
        }
        self.end_verification(wanted).await?;
        Ok(Ok(()))
    }

    /// All blobs in the order of their digests, with bytes; those that cannot be read with none.
    async fn sizes_of_blobs(&self) -> Result<Vec<(Digest, u64)>> {
        let mut digests = Vec::new();
        let mut entries = self.store.list(&layout::blobs(), None);
        while let Some(entry) = entries.try_next().await? {
            if !is_tombstone(entry.size) {
                digests.extend(layout::blob_digest(&entry.key));
            }
        }
        digests.sort_unstable();
        let size = |digest: Digest| async move {
            let found = self.find_blob(&digest).await.ok().flatten();
            (digest, found.map_or(0, |record| record.size))
        };
        Ok(stream::iter(digests).map(size).buffered(LOOKUPS).collect().await)
    }

    /// Looks at a blob, and puts it aside if it is damaged.
    async fn verify_blob(
        &self,
        wanted: Verification,
        digest: &Digest,
        owners: &[RepositoryName],
        stored: &Stored,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<(), Unheard> {
        let key = layout::blob(digest);
        let looked = self.look_at(wanted, digest, &key, stored, progress, report).await;
        let (object, recipes, damage) = match looked {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(damaged))) => damaged,
            Ok(Err(unheard)) => return Err(unheard),
            Err(error) => {
                let finding = self.finding(Kind::Unknown, &key, error.to_string(), None, report).await;
                return report.found(finding.of(digest.clone(), told(owners))).await;
            }
        };
        if self.has_changed(&key, &object).await {
            // It was stored in another way, or collected: whose data that was, is no loss.
            return Ok(());
        }
        let finding = self.finding(Kind::Blob, &key, damage.reason, Some(&object), report).await;
        if finding.quarantined {
            let settled = async {
                self.forget_members(digest, owners).await?;
                self.distrust(&recipes, damage.object.into_iter().collect()).await
            };
            if let Err(error) = settled.await {
                tracing::error!(%error, %digest, "clients may still be told of what is damaged; verify again");
            }
        }
        report.found(finding.of(digest.clone(), told(owners))).await
    }

    /// What is damaged of a blob, if anything is.
    async fn look_at(
        &self,
        wanted: Verification,
        digest: &Digest,
        key: &Key,
        stored: &Stored,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<Result<Option<Damaged>, Unheard>> {
        let (record, object) = match self.read_record::<BlobRecord>(key).await? {
            Read::Absent => return Ok(Ok(None)),
            Read::Damaged(object, reason) => {
                return Ok(Ok(Some((object, Vec::new(), Damage { reason, object: None }))));
            }
            Read::Whole(record, object) => (record, object),
        };
        // It may have been damaged on its way here.
        for is_last in [false, true] {
            match self.state_of(wanted, digest, &record, stored, progress, report).await? {
                Err(unheard) => return Ok(Err(unheard)),
                Ok(State::Right) => break,
                Ok(State::Damaged(damage)) if is_last => {
                    return Ok(Ok(Some((object, record.recipes(), damage))));
                }
                Ok(State::Damaged(_)) => {}
            }
        }
        Ok(Ok(None))
    }

    async fn has_changed(&self, key: &Key, object: &Object) -> bool {
        !matches!(self.store.get(key).await, Ok(now) if now.version == object.version)
    }

    async fn state_of(
        &self,
        wanted: Verification,
        digest: &Digest,
        record: &BlobRecord,
        stored: &Stored,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<Result<State, Unheard>> {
        // Nothing of what others read lies in its way.
        let source = Arc::new(Source::new(&self.store, 0));
        let look = Look { registry: self, wanted, source, stored };
        match look.at(digest, record, progress, report).await {
            Ok(state) => Ok(state),
            Err(Error::Store(error)) if error.is_lost() => {
                let object = match &error {
                    storage_backends::Error::NotFound { key }
                    | storage_backends::Error::DataLost { key, .. } => layout::id(key),
                    _ => None,
                };
                Ok(Ok(State::Damaged(Damage { reason: error.to_string(), object })))
            }
            Err(error) => Err(error),
        }
    }
}

/// A look at one blob.
struct Look<'a> {
    registry: &'a Registry,
    wanted: Verification,
    source: Arc<Source>,
    stored: &'a Stored,
}

impl Look<'_> {
    /// Data that is lost is an error of the store.
    async fn at(
        &self,
        digest: &Digest,
        record: &BlobRecord,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<Result<State, Unheard>> {
        if record.extents.iter().map(Extent::length).sum::<u64>() != record.size {
            return Ok(Ok(damaged("its extents do not add up to its size")));
        }
        let mut is_chunked = false;
        for extent in &record.extents {
            match extent {
                Extent::Data { object, offset, length } => self.require(*object, offset + length).await?,
                Extent::Chunks { recipe, length } => {
                    is_chunked = true;
                    let found = self.recipe(*recipe).await?;
                    if found.length() != *length {
                        return Ok(Ok(damaged("a list of its chunks does not add up to its size")));
                    }
                    if let Err(unheard) = self.chunks(&found, progress, report).await? {
                        return Ok(Err(unheard));
                    }
                }
                Extent::Zero { .. } | Extent::Inline(_) => {}
            }
        }
        let reads_whole = match self.wanted.depth {
            Depth::Quick => !record.needs_data(),
            Depth::Stored => !is_chunked,
            Depth::Deep => true,
        };
        if reads_whole {
            match self.digest(digest, record, report).await? {
                Ok(actual) if actual == *digest => {}
                Ok(_) => return Ok(Ok(damaged("its bytes are not those that were pushed"))),
                Err(unheard) => return Ok(Err(unheard)),
            }
        }
        Ok(Ok(State::Right))
    }

    async fn recipe(&self, id: Uuid) -> Result<Recipe> {
        let (paged, _) = self.source.recipes.paged(id).await?;
        Ok(self.source.recipes.read(id, &paged.pages).await?)
    }

    /// Makes sure that an object has so many bytes.
    async fn require(&self, object: Uuid, bytes: u64) -> Result<()> {
        if bytes == 0 || self.stored.data.get(&object).is_some_and(|size| *size >= bytes) {
            return Ok(());
        }
        // It may have come since the listing.
        let key = layout::data(object);
        let last: Vec<_> = self.registry.store.read(&key, bytes - 1..bytes).await?.try_collect().await?;
        if last.iter().map(bytes::Bytes::len).sum::<usize>() == 1 {
            Ok(())
        } else {
            let reason = format!("it has fewer than {bytes} bytes");
            Err(storage_backends::Error::DataLost { key, reason }.into())
        }
    }

    /// Looks at the chunks that were not seen yet.
    async fn chunks(
        &self,
        recipe: &Recipe,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<Result<(), Unheard>> {
        let mut unseen = Vec::new();
        for entry in recipe.entries() {
            let Entry::Chunk { place, .. } = entry else { continue };
            self.require(place.pack, place.end()).await?;
            if !progress.seen().has(place) {
                unseen.push(*entry);
            }
        }
        if self.wanted.depth == Depth::Quick {
            return Ok(Ok(()));
        }
        let mut checked = read_chunks::check(&self.source, &unseen);
        while let Some(places) = checked.try_next().await? {
            let bytes: u64 = places.iter().map(|place| u64::from(place.stored)).sum();
            for place in &places {
                progress.seen().add(place);
            }
            if let Err(unheard) = report.read(bytes).await {
                return Ok(Err(unheard));
            }
        }
        Ok(Ok(()))
    }

    /// The digest of what clients get.
    async fn digest(
        &self,
        digest: &Digest,
        record: &BlobRecord,
        report: &mut Report<'_>,
    ) -> Result<Result<Digest, Unheard>> {
        let mut hasher = Hasher::new(digest.algorithm());
        let mut pieces = read::stream(&self.source, record, 0..record.size);
        while let Some(piece) = pieces.try_next().await? {
            let bytes = piece.len() as u64;
            hasher = blocking(move || {
                hasher.update(&piece);
                hasher
            })
            .await;
            if let Err(unheard) = report.read(bytes).await {
                return Ok(Err(unheard));
            }
        }
        Ok(Ok(hasher.finish()))
    }
}

fn damaged(reason: &str) -> State {
    State::Damaged(Damage { reason: reason.to_owned(), object: None })
}
