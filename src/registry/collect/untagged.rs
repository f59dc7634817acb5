//! Manifests that nothing needs any more, in repositories that a rule of retention is for.
//!
//! A manifest is needed if a tag points to it, if an index that is needed lists it, if it is a referrer of one that is needed, or
//! if it was pushed lately: clients push the images of an index ahead of it. What is not needed is condemned and stays for the time that
//! the rule gives it. Whoever comes to need it meanwhile (asks for it, pushes it, tags it, lists it in an index) has it spared.
//! When its time is over it is looked once more, and a tombstone takes the place of what is still as it was condemned. Whatever keeps others
//! goes before them, so that one that is spared in the last moment is spared whole.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::Version;

use super::keeping::Keeping;
use super::retention::Governed;
use super::{Collected, Run};
use crate::oci::{Digest, Manifest, MediaType, RepositoryName};
use crate::registry::manifest::Sweep;
use crate::registry::{Change, Event, LOOKUPS, Registry, Result, condemn, layout, now};

/// The reason for which manifests go.
const REASON: &str = "no tag, no index and no subject keeps it";

/// What is known of a manifest.
#[derive(Debug)]
struct Known {
    subject: Option<Digest>,
    media_type: MediaType,
    /// Its bytes.
    size: u64,
    /// Its bytes and those of its blobs, as clients see them.
    bytes: u64,
    is_condemned: bool,
    /// Set where it was condemned, and its time is over: the state to bury.
    over: Option<Version>,
}

/// The manifests of a repository, and which keep which others.
#[derive(Debug, Default)]
struct Images {
    manifests: HashMap<Digest, Known>,
    keeping: Keeping,
}

impl Registry {
    /// Condemns manifests that nothing needs but maybe what is not among these `tagged` ones, and takes away those whose time is over.
    /// Gives the ones that went, or would go in the end.
    pub(super) async fn collect_untagged(
        &self,
        run: Run,
        name: &RepositoryName,
        governed: &Governed<'_>,
        tagged: HashSet<Digest>,
        collected: &mut Collected,
    ) -> Result<Vec<Digest>> {
        let waiting = Run { grace: governed.rule.untagged_after.max(run.grace), ..run };
        let Images { manifests, keeping } =
            self.images(waiting, name, governed.manifests.keys().cloned().collect()).await?;
        let is_young = |digest: &Digest| {
            governed.manifests.get(digest).is_some_and(|entry| run.is_young(entry.modified))
        };
        // What is condemned was written lately too.
        let young = manifests.iter().filter(|(digest, known)| !known.is_condemned && is_young(digest));
        let needed = keeping.kept_by(tagged.into_iter().chain(young.map(|(digest, _)| digest.clone())));
        let (kept, mut unneeded): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|(digest, _)| needed.contains(digest));
        unneeded.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if run.only_look {
            for (digest, known) in &unneeded {
                collected.manifests.deleted.add(known.size);
                collected.tell(run, governed.tell(name, None, digest, known.bytes, REASON));
            }
            return Ok(unneeded.into_iter().map(|(digest, _)| digest).collect());
        }
        // It has come to be needed by what does not know of it: a referrer whose subject has a tag again.
        for (digest, _) in kept.iter().filter(|(_, known)| known.is_condemned) {
            self.spare_manifest(name, digest).await?;
        }
        let mut over = HashMap::new();
        for (digest, known) in unneeded {
            if known.over.is_some() {
                over.insert(digest, known);
            } else if known.is_condemned || self.condemn_manifest(name, &digest, now()).await? {
                collected.manifests.condemned.add(known.size);
            }
        }
        if over.is_empty() {
            Ok(Vec::new())
        } else {
            self.bury_images(waiting, name, governed, over, collected).await
        }
    }

    /// Takes away manifests that were condemned long ago, unless somebody has come to need them.
    async fn bury_images(
        &self,
        run: Run,
        name: &RepositoryName,
        governed: &Governed<'_>,
        mut over: HashMap<Digest, Known>,
        collected: &mut Collected,
    ) -> Result<Vec<Digest>> {
        // Whoever did not see that a manifest was condemned had said before that it is needed.
        let there = self.manifests_of(name).await?;
        let Images { manifests, keeping } = self.images(run, name, there).await?;
        let others = manifests.into_keys().filter(|digest| !over.contains_key(digest));
        let needed = keeping.kept_by(self.tagged_now(name).await?.into_iter().chain(others));
        over.retain(|digest, _| !needed.contains(digest));
        let mut gone = Vec::new();
        while !over.is_empty() {
            for digest in keeping.first(&over) {
                let Some(Known { subject, size, bytes, media_type, over: Some(version), .. }) =
                    over.remove(&digest)
                else {
                    continue;
                };
                let key = layout::manifest(name, &digest);
                let event = Event {
                    media_type: Some(media_type),
                    size: Some(size),
                    ..governed.event(Change::ManifestDeleted, name, &digest, REASON)
                };
                if !self.deleting_unasked(event, condemn::bury(self.store.as_ref(), &key, version)).await? {
                    // Somebody needs it just now, or others took it away, and what it keeps is looked at the next time.
                    for kept in keeping.kept_by([digest]) {
                        over.remove(&kept);
                    }
                    continue;
                }
                collected.manifests.deleted.add(size);
                collected.tell(run, governed.tell(name, None, &digest, bytes, REASON));
                if let Some(subject) = &subject {
                    self.delete_referrer(name, subject, &digest, Sweep::Behind).await?;
                }
                self.delete_tags_of(name, &digest, Sweep::Behind).await?;
                gone.push(digest);
            }
        }
        Ok(gone)
    }

    /// Reads manifests. A `run` says for how long they stay condemned.
    async fn images(&self, run: Run, name: &RepositoryName, digests: HashSet<Digest>) -> Result<Images> {
        let read = |digest: Digest| async move {
            let found = self.find_manifest_object(name, &digest).await;
            found.map(|found| (digest, found))
        };
        let mut reading = stream::iter(digests).map(read).buffer_unordered(LOOKUPS);
        let mut images = Images::default();
        while let Some((digest, found)) = reading.try_next().await? {
            // Deleted since the listing.
            let Some(found) = found else { continue };
            let size = found.manifest.bytes.len() as u64;
            let manifest = Manifest::parse(&found.manifest.bytes, Some(found.manifest.media_type.clone()))?;
            for kept in manifest.content {
                images.keeping.add(digest.clone(), kept);
            }
            if let Some(subject) = &manifest.subject {
                images.keeping.add(subject.clone(), digest.clone());
            }
            let known = Known {
                media_type: found.manifest.media_type,
                subject: manifest.subject,
                size,
                bytes: manifest.blobs.iter().fold(size, |sum, blob| sum.saturating_add(blob.size)),
                is_condemned: found.condemned.is_some(),
                over: found.condemned.filter(|since| run.is_over(*since)).map(|_| found.version),
            };
            images.manifests.insert(digest, known);
        }
        Ok(images)
    }
}
