//! The data of blobs: whether it is there, and whether it is right.
//!
//! Blobs are taken in the order of their digests, so that it can be said where to go on. What is stored whole is compared with its
//! digest; of what is stored in chunks each chunk is compared with its hash where it was not seen yet. Nothing that is kept in
//! memory for readers is used, and nothing that is read is kept there.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use storage_backends::{Key, Object};
use uuid::Uuid;

use super::progress::Progress;
use super::records::{Owners, Read, Sizes};
use super::{Depth, Kind, Report, Unheard, Verification, Verified, told};
use crate::oci::{Digest, Hasher, RepositoryName};
use crate::registry::blocking::blocking;
use crate::registry::recipe::{Entry, PagedRecipe, Recipe};
use crate::registry::record::{BlobRecord, Extent};
use crate::registry::source::Source;
use crate::registry::stored::Stored;
use crate::registry::{Error, Registry, Result, StoreError, layout, read, read_chunks};

/// What is wrong with a blob.
#[derive(Debug)]
struct Damage {
    reason: String,
    /// The packs, and whatever else it is, that are damaged or missing.
    objects: HashSet<Uuid>,
}

impl Damage {
    fn of(reason: &str) -> Self {
        Self { reason: reason.to_owned(), objects: HashSet::new() }
    }

    /// Adds something that is lost; any other error is one.
    fn add(found: &mut Option<Self>, error: Error) -> Result<()> {
        let Error::Store(lost) = error else { return Err(error) };
        let (StoreError::NotFound { key } | StoreError::DataLost { key, .. }) = &lost else {
            return Err(lost.into());
        };
        let damage = found.get_or_insert_with(|| Self::of(&lost.to_string()));
        damage.objects.extend(layout::id(key));
        Ok(())
    }
}

/// The record of a blob that is damaged, as far as it can be read, and the damage.
type Damaged = (Object, Option<BlobRecord>, Damage);

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
        blobs: Sizes,
        owners: &Owners,
        report: &mut Report<'_>,
    ) -> Result<Result<(), Unheard>> {
        let stored = self.stored().await?;
        let mut progress = self.resume_verification(wanted).await?;
        let (number, bytes) = (blobs.len() as u64, blobs.values().sum::<u64>());
        let mut left = blobs;
        if let Some(after) = progress.after() {
            left = left.split_off(after);
            left.remove(after);
        }
        report.passed = bytes - left.values().sum::<u64>();
        let mut aside = HashSet::new();
        let looked = async {
            report.say(Verified::Begins { blobs: number, bytes, passed: report.passed }).await?;
            for (digest, size) in left {
                let owners = owners.get(&digest).map_or(&[][..], Vec::as_slice);
                if self.verify_blob(wanted, &digest, owners, &stored, &mut progress, report).await? {
                    aside.insert(digest.clone());
                }
                report.tally.blobs.count += 1;
                report.pass(size).await?;
                if let Err(error) = self.pass_verified(wanted, &mut progress, digest).await {
                    tracing::warn!(%error, "cannot write down how far a verification is");
                }
            }
            Ok(())
        };
        let looked = looked.await;
        self.forget_late_members(&aside).await?;
        match looked {
            Ok(()) => self.end_verification(wanted).await?,
            Err(Unheard) => self.break_off_verification(wanted, &mut progress).await?,
        }
        Ok(looked)
    }

    /// Looks at a blob, and puts it aside if it is damaged. Says whether it did.
    async fn verify_blob(
        &self,
        wanted: Verification,
        digest: &Digest,
        owners: &[RepositoryName],
        stored: &Stored,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<bool, Unheard> {
        let key = layout::blob(digest);
        let looked = self.look_at(wanted, digest, &key, stored, progress, report).await;
        let (object, record, damage) = match looked {
            Ok(Ok(None)) => return Ok(false),
            Ok(Ok(Some(damaged))) => damaged,
            Ok(Err(unheard)) => return Err(unheard),
            Err(error) => {
                let finding = self.finding(Kind::Unknown, &key, error.to_string(), None, report).await;
                report.found(finding.of(digest.clone(), told(owners))).await?;
                return Ok(false);
            }
        };
        let still = match self.still_as(&key, &object, record.as_ref()).await {
            Ok(Some(still)) => still,
            // It was stored in another way, or collected: whose data that was, is no loss.
            Ok(None) => return Ok(false),
            Err(error) => {
                let reason = format!("{}; and then {error}", damage.reason);
                let finding = self.finding(Kind::Unknown, &key, reason, None, report).await;
                report.found(finding.of(digest.clone(), told(owners))).await?;
                return Ok(false);
            }
        };
        // Before anybody hears that the blob is not there: what they push is not to be taken to be where it is damaged.
        let recipes = record.map(|record| record.recipes()).unwrap_or_default();
        let distrusted = if report.only_look {
            Ok(())
        } else {
            self.distrust(&recipes, damage.objects.into_iter().collect()).await
        };
        let finding = match distrusted {
            Ok(()) => self.finding(Kind::Blob, &key, damage.reason, Some(&still), report).await,
            Err(error) => {
                let reason = format!("{}; and then {error}", damage.reason);
                self.finding(Kind::Blob, &key, reason, None, report).await
            }
        };
        let is_aside = finding.quarantined;
        if is_aside && let Err(error) = self.forget_members(digest, owners).await {
            tracing::error!(%error, %digest, "clients may still be told of what is damaged; verify again");
        }
        report.found(finding.of(digest.clone(), told(owners))).await?;
        Ok(is_aside)
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
                return Ok(Ok(Some((object, None, Damage::of(&reason)))));
            }
            Read::Whole(record, object) => (record, object),
        };
        report.tally.blobs.bytes += record.size;
        // Nothing of what others read lies in its way.
        let source = Arc::new(Source::new(&self.store, 0));
        let look = Look { registry: self, wanted, source, stored };
        // It may have been damaged on its way here.
        for is_last in [false, true] {
            match look.at(digest, &record, progress, report).await? {
                Err(unheard) => return Ok(Err(unheard)),
                Ok(State::Right) => break,
                Ok(State::Damaged(damage)) if is_last => {
                    return Ok(Ok(Some((object, Some(record), damage))));
                }
                Ok(State::Damaged(_)) => {}
            }
        }
        Ok(Ok(None))
    }

    /// The object, if it says now what it said then.
    async fn still_as(
        &self,
        key: &Key,
        then: &Object,
        record: Option<&BlobRecord>,
    ) -> Result<Option<Object>> {
        Ok(match (self.read_record::<BlobRecord>(key).await?, record) {
            (Read::Whole(now, object), Some(record)) if now == *record => Some(object),
            (Read::Damaged(object, _), None) if object.version == then.version => Some(object),
            _ => None,
        })
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
    async fn at(
        &self,
        digest: &Digest,
        record: &BlobRecord,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<Result<State, Unheard>> {
        if record.extents.iter().map(Extent::length).sum::<u64>() != record.size {
            let damage = Damage::of("its extents do not add up to its size");
            return Ok(Ok(State::Damaged(damage)));
        }
        // All that is damaged, for none of it may be built upon.
        let (mut found, mut is_chunked) = (None, false);
        for extent in &record.extents {
            match extent {
                Extent::Data { object, offset, length } => {
                    if let Err(error) = self.require(*object, offset + length).await {
                        Damage::add(&mut found, error)?;
                    }
                }
                Extent::Chunks { recipe, length } => {
                    is_chunked = true;
                    match self.recipe(*recipe).await {
                        Ok(recipe) if recipe.length() != *length => {
                            found.get_or_insert_with(|| {
                                Damage::of("a list of its chunks does not add up to its size")
                            });
                        }
                        Ok(recipe) => {
                            if let Err(unheard) = self.chunks(&recipe, &mut found, progress, report).await? {
                                return Ok(Err(unheard));
                            }
                        }
                        Err(error) => {
                            Damage::add(&mut found, error)?;
                            let packs = self.packs_of(*recipe).await;
                            if let Some(damage) = &mut found {
                                damage.objects.extend(packs);
                            }
                        }
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
        if reads_whole && found.is_none() {
            match self.digest(digest, record, report).await {
                Ok(Ok(actual)) if actual == *digest => {}
                Ok(Ok(_)) => found = Some(Damage::of("its bytes are not those that were pushed")),
                Ok(Err(unheard)) => return Ok(Err(unheard)),
                Err(error) => Damage::add(&mut found, error)?,
            }
        }
        Ok(Ok(found.map_or(State::Right, State::Damaged)))
    }

    /// The packs that a recipe is known to use whose pages cannot be read.
    async fn packs_of(&self, recipe: Uuid) -> Vec<Uuid> {
        let paged = self.source.recipes.paged(recipe).await;
        let Ok((PagedRecipe { own, pages }, _)) = paged else { return Vec::new() };
        own.into_iter().chain(pages.into_iter().map(|page| page.place.pack)).collect()
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
        let mut entries = self.registry.store.list(&layout::data_folder(object), None);
        while let Some(entry) = entries.try_next().await? {
            if entry.key == key {
                let reason = format!("it has {} bytes, bytes to {bytes} are needed", entry.size);
                let lost = StoreError::DataLost { key, reason };
                return if entry.size < bytes { Err(lost.into()) } else { Ok(()) };
            }
        }
        Err(StoreError::NotFound { key }.into())
    }

    /// Looks at the chunks that were not seen yet.
    async fn chunks(
        &self,
        recipe: &Recipe,
        found: &mut Option<Damage>,
        progress: &mut Progress,
        report: &mut Report<'_>,
    ) -> Result<Result<(), Unheard>> {
        let mut unseen = Vec::new();
        for entry in recipe.entries() {
            let Entry::Chunk { place, .. } = entry else { continue };
            if let Err(error) = self.require(place.pack, place.end()).await {
                Damage::add(found, error)?;
            } else if !progress.seen().has(place) {
                unseen.push(*entry);
            }
        }
        if self.wanted.depth == Depth::Quick {
            return Ok(Ok(()));
        }
        let mut checked = read_chunks::check(&self.source, &unseen);
        while let Some(chunks) = checked.next().await {
            let chunks = match chunks {
                Ok(chunks) => chunks,
                Err(error) => {
                    Damage::add(found, error.into())?;
                    continue;
                }
            };
            let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.place.stored)).sum();
            for chunk in &chunks {
                progress.seen().add(&chunk.place);
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
