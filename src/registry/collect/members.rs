//! Blobs of repositories that no manifest there needs.
//!
//! They were in images that are deleted, or were pushed for images that never came. Which blobs a repository needs is in its
//! manifests, all of which are read; of a repository with one that cannot be read nothing goes.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::Entry;

use super::retention::Gone;
use super::{Run, Step};
use crate::oci::{Digest, Manifest, RepositoryName};
use crate::registry::condemn::{self, Condemned};
use crate::registry::record::Membership;
use crate::registry::{Error, LOOKUPS, Registry, Result, layout, now, record};

/// A blob of a repository.
pub(super) type Member = (RepositoryName, Digest);

/// What is in a repository.
#[derive(Debug, Default)]
struct Contents {
    members: Vec<(Digest, Entry)>,
    manifests: HashSet<Digest>,
}

impl Registry {
    /// Takes blobs out of repositories, as if the manifests were `gone` that are said to be. Gives those that are not
    /// needed.
    pub(super) async fn collect_members(&self, run: Run, gone: &Gone) -> Result<(Step, HashSet<Member>)> {
        let (mut step, mut unneeded) = (Step::default(), HashSet::new());
        for (name, mut contents) in self.contents().await? {
            for digest in gone.get(&name).into_iter().flatten() {
                contents.manifests.remove(digest);
            }
            match self.collect_members_of(run, &name, contents, &mut step).await {
                Ok(digests) => unneeded.extend(digests.into_iter().map(|digest| (name.clone(), digest))),
                Err(error @ (Error::Record { .. } | Error::ManifestInvalid(_))) => {
                    tracing::warn!(%error, repository = %name, "nothing of a repository is collected");
                }
                Err(error) => return Err(error),
            }
        }
        Ok((step, unneeded))
    }

    async fn collect_members_of(
        &self,
        run: Run,
        name: &RepositoryName,
        Contents { members, manifests }: Contents,
        step: &mut Step,
    ) -> Result<Vec<Digest>> {
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let needed = self.needed_in(name, manifests).await?;
        let mut unneeded = Vec::new();
        for (digest, entry) in members.into_iter().filter(|(digest, _)| !needed.contains(digest)) {
            // What is condemned was written lately too.
            let found = record::find_stored::<Membership>(self.store.as_ref(), &entry.key).await?;
            if let Some(found) = found
                && (found.condemned.is_some() || !run.is_young(entry.modified))
            {
                unneeded.push((digest, entry.key, found));
            }
        }
        let digests: Vec<Digest> = unneeded.iter().map(|(digest, ..)| digest.clone()).collect();
        if run.only_look {
            for (_, _, found) in unneeded {
                step.deleted.add(found.record.size);
            }
            return Ok(digests);
        }
        let (store, mut over) = (self.store.as_ref(), Vec::new());
        for (digest, key, found) in unneeded {
            let Some(found) = condemn::condemn(store, &key, found, now()).await? else { continue };
            if run.is_over(found.since) {
                over.push((digest, key, found));
            } else {
                step.condemned.add(found.record.size);
            }
        }
        if over.is_empty() {
            return Ok(digests);
        }
        // Whoever did not see that a blob was condemned had stored a manifest before.
        let needed = self.needed_in(name, self.manifests_of(name).await?).await?;
        for (digest, key, Condemned { record, version, .. }) in over {
            if !needed.contains(&digest) && condemn::bury(store, &key, version).await? {
                tracing::debug!(repository = %name, %digest, "a blob that no manifest needs was collected");
                step.deleted.add(record.size);
            }
        }
        Ok(digests)
    }

    pub(super) async fn manifests_of(&self, name: &RepositoryName) -> Result<HashSet<Digest>> {
        let mut found = HashSet::new();
        let mut entries = self.store.list(&layout::manifests(name), None);
        while let Some(entry) = entries.try_next().await? {
            if !record::is_buried(entry.size) {
                found.extend(layout::manifest_of(&entry.key).map(|(_, digest)| digest));
            }
        }
        Ok(found)
    }

    async fn contents(&self) -> Result<HashMap<RepositoryName, Contents>> {
        let mut repositories: HashMap<RepositoryName, Contents> = HashMap::new();
        let mut entries = self.store.list(&layout::repositories(), None);
        while let Some(entry) = entries.try_next().await? {
            if record::is_buried(entry.size) {
                continue;
            }
            if let Some((name, digest)) = layout::manifest_of(&entry.key) {
                repositories.entry(name).or_default().manifests.insert(digest);
            } else if !record::is_tombstone(entry.size)
                && let Some((name, digest)) = layout::member(&entry.key)
            {
                repositories.entry(name).or_default().members.push((digest, entry));
            }
        }
        Ok(repositories)
    }

    /// The blobs that manifests name.
    async fn needed_in(&self, name: &RepositoryName, manifests: HashSet<Digest>) -> Result<HashSet<Digest>> {
        let read = |digest: Digest| async move { self.find_manifest(name, &digest).await };
        let mut found = stream::iter(manifests).map(read).buffer_unordered(LOOKUPS);
        let mut needed = HashSet::new();
        while let Some(manifest) = found.try_next().await? {
            // Deleted since the listing.
            let Some(manifest) = manifest else { continue };
            let manifest = Manifest::parse(&manifest.bytes, Some(manifest.media_type))?;
            needed.extend(manifest.content);
        }
        Ok(needed)
    }
}
