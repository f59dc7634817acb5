//! What rules of retention take away: tags, and manifests that nothing needs any more.
//!
//! A tag goes only if it is still as it was when that was decided, so that one that is moved meanwhile stays. What becomes of the
//! manifests is in [`untagged`](super::untagged). Of a repository with a tag or a manifest that cannot be read no manifest goes.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::{Entry, Version};

use super::{Collected, Expired, Run};
use crate::oci::{Digest, RepositoryName, Tag};
use crate::registry::manifest::Sweep;
use crate::registry::record::TagRecord;
use crate::registry::retention::{PushedTag, RetentionRule};
use crate::registry::{Change, Error, Event, LOOKUPS, Registry, Result, condemn, layout, record, since_1970};

/// Manifests of repositories that went; in a run that only looks, that would go in the end.
pub(super) type Gone = HashMap<RepositoryName, Vec<Digest>>;

/// What is in a repository that a rule is for.
#[derive(Debug)]
pub(super) struct Governed<'a> {
    pub(super) rule: &'a RetentionRule,
    /// Which it is, from 1.
    number: u64,
    tags: Vec<Entry>,
    pub(super) manifests: HashMap<Digest, Entry>,
    /// Of these a rule took the manifest away.
    buried: HashSet<Digest>,
    /// Each with its subject.
    referrers: Vec<(Digest, Digest)>,
}

impl Governed<'_> {
    /// What is told of something that goes by its rule.
    pub(super) fn tell(
        &self,
        name: &RepositoryName,
        tag: Option<&Tag>,
        digest: &Digest,
        bytes: u64,
        reason: &str,
    ) -> Expired {
        Expired {
            repository: name.to_string(),
            tag: tag.map(ToString::to_string),
            digest: digest.clone(),
            rule: self.number,
            bytes,
            reason: reason.to_owned(),
        }
    }

    /// What others hear of something that goes by its rule.
    pub(super) fn event(
        &self,
        change: Change,
        name: &RepositoryName,
        digest: &Digest,
        reason: &str,
    ) -> Event {
        Event {
            change,
            repository: name.clone(),
            tags: Vec::new(),
            digest: Some(digest.clone()),
            media_type: None,
            size: None,
            user: None,
            reason: Some(format!("rule of retention {}: {reason}", self.number)),
            request: None,
        }
    }
}

impl Registry {
    /// Takes away what rules do not keep. Gives the manifests.
    pub(super) async fn collect_by_rule(&self, run: Run, collected: &mut Collected) -> Result<Gone> {
        let mut gone = Gone::new();
        if self.retention.is_empty() {
            return Ok(gone);
        }
        for (name, governed) in self.governed().await? {
            match self.collect_governed(run, &name, &governed, collected).await {
                Ok(digests) => {
                    gone.insert(name, digests);
                }
                Err(error @ (Error::Record { .. } | Error::ManifestInvalid(_))) => {
                    tracing::warn!(%error, repository = %name, "no image of a repository goes by its rule");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    async fn collect_governed(
        &self,
        run: Run,
        name: &RepositoryName,
        governed: &Governed<'_>,
        collected: &mut Collected,
    ) -> Result<Vec<Digest>> {
        let (tags, versions) = self.read_tags(name, &governed.tags).await?;
        let mut tagged: HashMap<&Tag, &Digest> =
            tags.iter().map(|found| (&found.tag, &found.digest)).collect();
        for (found, reason) in governed.rule.expired(&tags, &governed.buried, run.begun) {
            let PushedTag { tag, digest, .. } = found;
            let Some(version) = versions.get(tag) else { continue };
            if let Some(subject) = found.subject()
                && (run.is_in_grace(found.pushed) || self.has_manifest(name, &subject).await?)
            {
                // A signature may come ahead of its image, and the image may have come again since it was listed.
                continue;
            }
            if run.only_look || self.bury_tag(name, governed, found, version.clone(), &reason).await? {
                tagged.remove(tag);
                collected.tags.deleted.add(0);
                collected.tell(run, governed.tell(name, Some(tag), digest, 0, &reason));
            }
        }
        let tagged = tagged.into_values().cloned().collect();
        if !run.only_look {
            self.forget_referrers(name, governed).await?;
        }
        self.collect_untagged(run, name, governed, tagged, collected).await
    }

    /// Takes away a tag that is still as it was found, and tells of it.
    async fn bury_tag(
        &self,
        name: &RepositoryName,
        governed: &Governed<'_>,
        PushedTag { tag, digest, .. }: &PushedTag,
        version: Version,
        reason: &str,
    ) -> Result<bool> {
        let key = layout::tag(name, tag);
        let deletion = condemn::bury(self.store.as_ref(), &key, version);
        if !self.is_wanted(Change::TagDeleted, name) {
            return deletion.await;
        }
        let manifest = match self.find_manifest(name, digest).await {
            // The tag goes all the same.
            Err(Error::Record { .. }) => None,
            found => found?,
        };
        let event = Event {
            tags: vec![tag.clone()],
            media_type: manifest.as_ref().map(|manifest| manifest.media_type.clone()),
            size: manifest.as_ref().map(|manifest| manifest.bytes.len() as u64),
            ..governed.event(Change::TagDeleted, name, digest, reason)
        };
        self.deleting_unasked(event, deletion).await
    }

    /// Empties what is left of referrers whose manifest a rule took away, where whoever did that got no further.
    async fn forget_referrers(&self, name: &RepositoryName, governed: &Governed<'_>) -> Result<()> {
        for (subject, digest) in &governed.referrers {
            if governed.buried.contains(digest) {
                self.delete_referrer(name, subject, digest, Sweep::Behind).await?;
            }
        }
        Ok(())
    }

    /// What tags point to, each with when it was pushed, and what to name to delete just that.
    async fn read_tags(
        &self,
        name: &RepositoryName,
        entries: &[Entry],
    ) -> Result<(Vec<PushedTag>, HashMap<Tag, Version>)> {
        let read = |entry: Entry| async move {
            let Some(tag) = layout::tag_name(&entry.key) else { return Ok(None) };
            let found =
                record::find_stored::<TagRecord>(self.store.as_ref(), &layout::tag(name, &tag)).await?;
            Ok::<_, Error>(found.map(|found| {
                // By the clock of who pushed, which tells of less than a second too.
                let pushed = found.written.unwrap_or_else(|| since_1970(entry.modified));
                (PushedTag { tag, digest: found.record.digest, pushed }, found.version)
            }))
        };
        let mut reading = stream::iter(entries.to_vec()).map(read).buffer_unordered(LOOKUPS);
        let (mut tags, mut versions) = (Vec::new(), HashMap::new());
        while let Some(found) = reading.try_next().await? {
            let Some((tag, version)) = found else { continue };
            versions.insert(tag.tag.clone(), version);
            tags.push(tag);
        }
        Ok((tags, versions))
    }

    /// What the tags of a repository point to now.
    pub(super) async fn tagged_now(&self, name: &RepositoryName) -> Result<HashSet<Digest>> {
        let entries = self.store.list(&layout::tags(name), None);
        let there = entries.try_filter(|entry| std::future::ready(!record::is_tombstone(entry.size)));
        let (tags, _) = self.read_tags(name, &there.try_collect::<Vec<_>>().await?).await?;
        Ok(tags.into_iter().map(|found| found.digest).collect())
    }

    /// The repositories that a rule is for, with what they have.
    async fn governed(&self) -> Result<BTreeMap<RepositoryName, Governed<'_>>> {
        let mut all: BTreeMap<RepositoryName, Option<Governed<'_>>> = BTreeMap::new();
        let mut entries = self.store.list(&layout::repositories(), None);
        while let Some(entry) = entries.try_next().await? {
            let Some((name, what)) = What::of(&entry) else { continue };
            let governed = all.entry(name).or_insert_with_key(|name| self.rule_for(name));
            let Some(governed) = governed else { continue };
            match (what, record::is_tombstone(entry.size)) {
                (What::Manifest(digest), _) if record::is_buried(entry.size) => {
                    governed.buried.insert(digest);
                }
                (What::Manifest(digest), _) => {
                    governed.manifests.insert(digest, entry);
                }
                (What::Referrer(subject, digest), false) => governed.referrers.push((subject, digest)),
                (What::Tag, false) => governed.tags.push(entry),
                (What::Referrer(..) | What::Tag, true) => {}
            }
        }
        Ok(all.into_iter().filter_map(|(name, governed)| Some((name, governed?))).collect())
    }

    /// The first rule that is for a repository.
    fn rule_for(&self, name: &RepositoryName) -> Option<Governed<'_>> {
        let (number, rule) = (1..).zip(&self.retention).find(|(_, rule)| rule.repositories.has(name))?;
        Some(Governed {
            rule,
            number,
            tags: Vec::new(),
            manifests: HashMap::new(),
            buried: HashSet::new(),
            referrers: Vec::new(),
        })
    }
}

/// What an object of a repository is.
enum What {
    Manifest(Digest),
    /// Of the subject, the manifest.
    Referrer(Digest, Digest),
    Tag,
}

impl What {
    fn of(entry: &Entry) -> Option<(RepositoryName, Self)> {
        if let Some((name, digest)) = layout::manifest_of(&entry.key) {
            return Some((name, Self::Manifest(digest)));
        }
        if let Some((name, subject, digest)) = layout::referrer_of(&entry.key) {
            return Some((name, Self::Referrer(subject, digest)));
        }
        Some((layout::repository_of_tag(&entry.key)?, Self::Tag))
    }
}
