//! Everything that is small: whether it can be read, and whether what it points to is there.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::{Condition, Key, Object};

use super::{Finding, Kind, Report, Unheard, told};
use crate::oci::{Digest, Manifest, RepositoryName};
use crate::registry::lease::LeaseRecord;
use crate::registry::outbox::EventRecord;
use crate::registry::record::{
    CondemnedData, IndexEntry, Membership, Objection, Record, ReferrerRecord, Segment, SessionRecord,
    TagRecord,
};
use crate::registry::{ATTEMPTS, LOOKUPS, Registry, Result, condemn, layout, record};

/// The repositories that have a blob.
pub(super) type Owners = HashMap<Digest, Vec<RepositoryName>>;

/// The blobs that are there, in the order of their digests, with the bytes that repositories know of: none where none has it.
pub(super) type Sizes = BTreeMap<Digest, u64>;

/// What repositories have.
#[derive(Debug, Default)]
struct Contents {
    members: Owners,
    manifests: HashSet<(RepositoryName, Digest)>,
    tags: Vec<(RepositoryName, Key)>,
    referrers: Vec<(RepositoryName, Key)>,
}

/// A record as it was found.
pub(super) enum Read<T> {
    Absent,
    Whole(T, Object),
    Damaged(Object, String),
}

impl Registry {
    /// Looks at all records. Gives which blobs there are, and who has which.
    pub(super) async fn verify_records(
        &self,
        report: &mut Report<'_>,
    ) -> Result<Result<(Sizes, Owners), Unheard>> {
        let contents = self.all_contents().await?;
        let mut blobs = self.blobs_there().await?;
        let verified = async {
            self.verify_manifests(&contents, report).await?;
            self.verify_members(&contents, &mut blobs, report).await?;
            self.verify_tags(&contents, report).await?;
            self.verify_upkeep(report).await?;
            Ok(())
        };
        let verified = verified.await;
        Ok(verified.map(|()| (blobs, contents.members)))
    }

    async fn all_contents(&self) -> Result<Contents> {
        let mut contents = Contents::default();
        let mut entries = self.store.list(&layout::repositories(), None);
        while let Some(entry) = entries.try_next().await? {
            if record::is_tombstone(entry.size) {
                continue;
            }
            if let Some((name, digest)) = layout::member(&entry.key) {
                contents.members.entry(digest).or_default().push(name);
            } else if let Some(manifest) = layout::manifest_of(&entry.key) {
                contents.manifests.insert(manifest);
            } else if let Some(name) = layout::repository_of_tag(&entry.key) {
                contents.tags.push((name, entry.key));
            } else if let Some(name) = layout::repository_of_referrer(&entry.key) {
                contents.referrers.push((name, entry.key));
            }
        }
        Ok(contents)
    }

    async fn blobs_there(&self) -> Result<Sizes> {
        let mut blobs = Sizes::new();
        let mut entries = self.store.list(&layout::blobs(), None);
        while let Some(entry) = entries.try_next().await? {
            if !record::is_tombstone(entry.size) {
                blobs.extend(layout::blob_digest(&entry.key).map(|digest| (digest, 0)));
            }
        }
        Ok(blobs)
    }

    async fn verify_manifests(&self, contents: &Contents, report: &mut Report<'_>) -> Result<(), Unheard> {
        let read = |(name, digest): (RepositoryName, Digest)| async move {
            let key = layout::manifest(&name, &digest);
            let checked = match self.store.get(&key).await {
                Ok(object) if record::is_tombstone(object.bytes.len() as u64) => Ok(None),
                Ok(object) => Ok(Some(parse(&name, &digest, &object))),
                Err(storage_backends::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            };
            (name, digest, key, checked)
        };
        let mut manifests = stream::iter(contents.manifests.clone()).map(read).buffer_unordered(LOOKUPS);
        while let Some((name, digest, key, checked)) = manifests.next().await {
            report.tally.manifests += 1;
            let (kind, reason) = match checked {
                Ok(None) => continue,
                Ok(Some(Ok(manifest))) => match self.lacks(&name, &manifest, contents).await {
                    Ok(missing) if missing.is_empty() => continue,
                    Ok(missing) => (Kind::Manifest, format!("the repository lacks {}", missing.join(", "))),
                    Err(error) => (Kind::Unknown, error.to_string()),
                },
                // It stays where it is: it can be pushed over, and while it is there nothing of its repository is collected.
                Ok(Some(Err(reason))) => (Kind::Manifest, reason),
                Err(error) => (Kind::Unknown, error.to_string()),
            };
            let finding = self.finding(kind, &key, reason, None, report).await;
            report.found(finding.of(digest, told(&[name]))).await?;
        }
        Ok(())
    }

    /// The blobs that a manifest needs and its repository does not have.
    async fn lacks(
        &self,
        name: &RepositoryName,
        manifest: &Manifest,
        contents: &Contents,
    ) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for blob in &manifest.blobs {
            let is_member = contents.members.get(&blob.digest).is_some_and(|names| names.contains(name));
            // It may have come since.
            if self.rules.require_blobs && !is_member && self.find_member(name, &blob.digest).await?.is_none()
            {
                missing.push(blob.digest.to_string());
            }
        }
        Ok(missing)
    }

    async fn verify_members(
        &self,
        contents: &Contents,
        blobs: &mut Sizes,
        report: &mut Report<'_>,
    ) -> Result<(), Unheard> {
        let mut all = Vec::new();
        for (digest, names) in &contents.members {
            all.extend(names.iter().map(|name| (digest.clone(), name.clone())));
        }
        let read = |(digest, name): (Digest, RepositoryName)| async move {
            let key = layout::membership(&name, &digest);
            (self.read_record::<Membership>(&key).await, key, digest, name)
        };
        let mut members = stream::iter(all).map(read).buffer_unordered(LOOKUPS);
        while let Some((found, key, digest, name)) = members.next().await {
            let finding = match found {
                Ok(Read::Damaged(object, reason)) => {
                    self.mend_member(&key, &digest, &object, reason, report).await
                }
                Ok(Read::Whole(member, _)) => {
                    if let Some(size) = blobs.get_mut(&digest) {
                        *size = member.size;
                    }
                    continue;
                }
                found => match self.judge(Kind::Membership, &key, found, report).await {
                    Some(finding) => finding,
                    None => continue,
                },
            };
            report.found(finding.of(digest, told(&[name]))).await?;
        }
        for (digest, names) in contents.members.iter().filter(|(digest, _)| !blobs.contains_key(digest)) {
            // A blob's record is written before it is in any repository, and goes when it is in none.
            if !matches!(self.is_lost(digest, names).await, Ok(true)) {
                continue;
            }
            let reason = "the record of where its bytes are is missing".to_owned();
            let mut finding = self.finding(Kind::Blob, &layout::blob(digest), reason, None, report).await;
            if !report.only_look {
                finding.quarantined = self.forget_members(digest, names).await.is_ok();
            }
            report.found(finding.of(digest.clone(), told(names))).await?;
        }
        Ok(())
    }

    /// Writes anew that a repository has a blob, if there is such a blob: all that it says is known from elsewhere.
    async fn mend_member(
        &self,
        key: &Key,
        digest: &Digest,
        damaged: &Object,
        reason: String,
        report: &Report<'_>,
    ) -> Finding {
        let blob = match self.find_blob(digest).await {
            Ok(blob) => blob,
            Err(error) => return self.finding(Kind::Unknown, key, error.to_string(), None, report).await,
        };
        let Some(blob) = blob else {
            return self.finding(Kind::Membership, key, reason, Some(damaged), report).await;
        };
        let mut finding = self.finding(Kind::Membership, key, reason, None, report).await;
        if !report.only_look {
            let member = record::encode_unique(&Membership { size: blob.size });
            let condition = Condition::Unchanged(damaged.version.clone());
            match self.store.put(key, member, condition).await {
                Ok(_) => finding.reason.push_str("; it was written anew"),
                Err(error) => tracing::error!(%error, %key, "cannot write anew that a repository has a blob"),
            }
        }
        finding
    }

    /// Whether a blob is in a repository, and its record nowhere.
    async fn is_lost(&self, digest: &Digest, names: &[RepositoryName]) -> Result<bool> {
        for name in names {
            if self.find_member(name, digest).await?.is_some() {
                return Ok(matches!(self.find_blob(digest).await, Ok(None)));
            }
        }
        Ok(false)
    }

    async fn verify_tags(&self, contents: &Contents, report: &mut Report<'_>) -> Result<(), Unheard> {
        let read = |(name, key): (RepositoryName, Key)| async move {
            (self.read_record::<TagRecord>(&key).await, key, name)
        };
        let mut tags = stream::iter(contents.tags.clone()).map(read).buffer_unordered(LOOKUPS);
        while let Some((found, key, name)) = tags.next().await {
            report.tally.tags += 1;
            if let Ok(Read::Whole(tag, _)) = &found
                && !contents.manifests.contains(&(name.clone(), tag.digest.clone()))
                && self.still_points_nowhere(&name, &key, tag).await
            {
                let reason = "the manifest that it points to is missing".to_owned();
                let finding = self.finding(Kind::Tag, &key, reason, None, report).await;
                report.found(finding.of(tag.digest.clone(), told(&[name]))).await?;
            } else if let Some(finding) = self.judge(Kind::Tag, &key, found, report).await {
                report.found(Finding { repositories: told(&[name]), ..finding }).await?;
            }
        }
        for (name, key) in &contents.referrers {
            let found = self.read_record::<ReferrerRecord>(key).await;
            if let Some(finding) = self.judge(Kind::Referrer, key, found, report).await {
                report.found(Finding { repositories: told(std::slice::from_ref(name)), ..finding }).await?;
            }
        }
        Ok(())
    }

    /// Whether a tag is as it was, and its manifest is not there, also now.
    async fn still_points_nowhere(&self, name: &RepositoryName, key: &Key, tag: &TagRecord) -> bool {
        let is_gone = matches!(self.has_manifest(name, &tag.digest).await, Ok(false));
        let now = self.read_record::<TagRecord>(key).await;
        is_gone && matches!(now, Ok(Read::Whole(now, _)) if now.digest == tag.digest)
    }

    /// Records of uploads and of collections, those that tell of known chunks, and events.
    async fn verify_upkeep(&self, report: &mut Report<'_>) -> Result<(), Unheard> {
        for (folder, kind) in [
            (layout::sessions(), Kind::Upload),
            (layout::condemned(), Kind::Upkeep),
            (layout::index(), Kind::Upkeep),
            (layout::outbox(), Kind::Upkeep),
            (layout::leases(), Kind::Upkeep),
        ] {
            let mut entries = self.store.list(&folder, None);
            loop {
                let entry = match entries.try_next().await {
                    Ok(Some(entry)) => entry,
                    Ok(None) => break,
                    Err(error) => {
                        let finding =
                            self.finding(Kind::Unknown, &folder, error.to_string(), None, report).await;
                        report.found(finding).await?;
                        break;
                    }
                };
                let is_part = entry.key.as_str().contains('!');
                let key = entry.key;
                let found = match (kind, is_part) {
                    (Kind::Upload, true) => self.judge_as::<Segment>(kind, &key, report).await,
                    (Kind::Upload, false) => self.judge_as::<SessionRecord>(kind, &key, report).await,
                    (_, true) => self.judge_as::<Objection>(kind, &key, report).await,
                    _ if folder == layout::index() => self.judge_as::<IndexEntry>(kind, &key, report).await,
                    _ if folder == layout::outbox() => self.judge_as::<EventRecord>(kind, &key, report).await,
                    _ if folder == layout::leases() => self.judge_as::<LeaseRecord>(kind, &key, report).await,
                    _ => self.judge_as::<CondemnedData>(kind, &key, report).await,
                };
                if let Some(finding) = found {
                    // Where others may use the id too, the tombstone stays: who deletes it could hit what they have begun. Of a lease
                    // it is written over, and of an upload it is collected.
                    let is_reused = kind == Kind::Upload || folder == layout::leases();
                    if finding.quarantined
                        && !is_reused
                        && let Err(error) = self.store.delete(&key).await
                    {
                        tracing::warn!(%error, %key, "a tombstone stays");
                    }
                    report.found(finding).await?;
                }
            }
        }
        Ok(())
    }

    async fn judge_as<T: Record + Send + 'static>(
        &self,
        kind: Kind,
        key: &Key,
        report: &Report<'_>,
    ) -> Option<Finding> {
        let found = self.read_record::<T>(key).await;
        self.judge(kind, key, found, report).await
    }

    /// What is wrong with a record, if anything is. If it is damaged, it is put aside.
    async fn judge<T>(
        &self,
        kind: Kind,
        key: &Key,
        found: Result<Read<T>>,
        report: &Report<'_>,
    ) -> Option<Finding> {
        match found {
            Ok(Read::Absent | Read::Whole(..)) => None,
            Ok(Read::Damaged(object, reason)) => {
                Some(self.finding(kind, key, reason, Some(&object), report).await)
            }
            Err(error) => Some(self.finding(Kind::Unknown, key, error.to_string(), None, report).await),
        }
    }

    /// A finding, with the object that is damaged put aside.
    pub(super) async fn finding(
        &self,
        kind: Kind,
        key: &Key,
        reason: String,
        damaged: Option<&Object>,
        report: &Report<'_>,
    ) -> Finding {
        let quarantined = match damaged {
            Some(object) if !report.only_look => match self.quarantine(key, object, &reason).await {
                Ok(quarantined) => quarantined,
                Err(error) => {
                    tracing::error!(%error, %key, "cannot put aside what is damaged");
                    false
                }
            },
            _ => false,
        };
        Finding { kind, key: key.to_string(), reason, digest: None, repositories: Vec::new(), quarantined }
    }

    /// A record, with its bytes.
    pub(super) async fn read_record<T: Record + Send + 'static>(&self, key: &Key) -> Result<Read<T>> {
        let object = match self.store.get(key).await {
            Ok(object) if record::is_tombstone(object.bytes.len() as u64) => return Ok(Read::Absent),
            Ok(object) => object,
            Err(storage_backends::Error::NotFound { .. }) => return Ok(Read::Absent),
            Err(error) => return Err(error.into()),
        };
        Ok(match record::decode::<T>(key, &object.bytes) {
            Ok(found) => Read::Whole(found, object),
            Err(error) if record::is_of_later_release(&object.bytes, &error) => return Err(error),
            Err(error) => Read::Damaged(object, error.to_string()),
        })
    }

    /// Takes a blob out of repositories, if its record is not there: clients that ask hear so, and push it again.
    pub(super) async fn forget_members(&self, digest: &Digest, owners: &[RepositoryName]) -> Result<()> {
        for name in owners {
            let key = layout::membership(name, digest);
            // Somebody may spare it just then.
            for _ in 0..ATTEMPTS {
                let Read::Whole(_, object) = self.read_record::<Membership>(&key).await? else { break };
                // Behind the membership: who pushes the blob again writes its record first.
                if self.find_blob(digest).await?.is_some()
                    || condemn::bury(self.store.as_ref(), &key, object.version).await?
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes blobs that were put aside out of the repositories that they have come into since it was listed who has what.
    pub(super) async fn forget_late_members(&self, aside: &HashSet<Digest>) -> Result<()> {
        if aside.is_empty() {
            return Ok(());
        }
        let mut late = Vec::new();
        let mut entries = self.store.list(&layout::repositories(), None);
        while let Some(entry) = entries.try_next().await? {
            late.extend(layout::member(&entry.key).filter(|(_, digest)| aside.contains(digest)));
        }
        for (name, digest) in late {
            self.forget_members(&digest, &[name]).await?;
        }
        Ok(())
    }
}

/// A manifest out of what is stored, or what is wrong with it.
fn parse(name: &RepositoryName, digest: &Digest, stored: &Object) -> Result<Manifest, String> {
    let manifest = Registry::decode_manifest(name, digest, stored).map_err(|error| error.to_string())?;
    Manifest::parse(&manifest.bytes, Some(manifest.media_type)).map_err(|error| error.to_string())
}

impl Finding {
    /// The same, of this blob or manifest in these repositories.
    pub(super) fn of(self, digest: Digest, repositories: Vec<String>) -> Self {
        Self { digest: Some(digest), repositories, ..self }
    }
}
