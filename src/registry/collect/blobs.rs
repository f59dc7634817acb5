//! Records of blobs that are in no repository.
//!
//! Nobody can have been told of such a blob for a while, so there is no grace here. Who makes a blob a member of a repository
//! reads its record behind that; so it is marked first, then looked for members once more.

use std::collections::HashSet;

use futures::TryStreamExt as _;

use super::members::Member;
use super::{Run, Step};
use crate::oci::Digest;
use crate::registry::condemn::{self, Condemned};
use crate::registry::record::BlobRecord;
use crate::registry::{Registry, Result, layout, now, record};

impl Registry {
    /// Buries the records of blobs that are in no repository; in a run that only looks, `but` those members. Gives the blobs.
    pub(super) async fn collect_blobs(
        &self,
        run: Run,
        but: &HashSet<Member>,
    ) -> Result<(Step, HashSet<Digest>)> {
        let (store, mut step) = (self.store.as_ref(), Step::default());
        let none = HashSet::new();
        let members = self.member_blobs(if run.only_look { but } else { &none }).await?;
        let mut homeless = Vec::new();
        let mut entries = store.list(&layout::blobs(), None);
        while let Some(entry) = entries.try_next().await? {
            if record::is_tombstone(entry.size) || run.is_young(entry.modified) {
                continue;
            }
            if let Some(digest) = layout::blob_digest(&entry.key)
                && !members.contains(&digest)
            {
                homeless.push(digest);
            }
        }
        if run.only_look {
            for digest in &homeless {
                if let Some(record) = record::unless_damaged(self.find_blob(digest).await)? {
                    step.deleted.add(record.size);
                }
            }
            return Ok((step, homeless.into_iter().collect()));
        }
        let mut condemned = Vec::new();
        for digest in homeless {
            let key = layout::blob(&digest);
            let found = record::find_stored::<BlobRecord>(store, &key).await;
            if let Some(found) = record::unless_damaged(found)?
                && let Some(found) = condemn::condemn(store, &key, found, now()).await?
            {
                condemned.push((digest, key, found));
            }
        }
        if condemned.is_empty() {
            return Ok((step, HashSet::new()));
        }
        let members = self.member_blobs(&none).await?;
        let mut gone = HashSet::new();
        for (digest, key, Condemned { record, version, .. }) in condemned {
            if members.contains(&digest) {
                condemn::spare::<BlobRecord>(store, &key).await?;
            } else if condemn::bury(store, &key, version).await? {
                step.deleted.add(record.size);
                gone.insert(digest);
            }
        }
        Ok((step, gone))
    }

    /// The blobs that are in some repository.
    async fn member_blobs(&self, but: &HashSet<Member>) -> Result<HashSet<Digest>> {
        let mut blobs = HashSet::new();
        let mut entries = self.store.list(&layout::repositories(), None);
        while let Some(entry) = entries.try_next().await? {
            if !record::is_tombstone(entry.size)
                && let Some(member) = layout::member(&entry.key)
                && !but.contains(&member)
            {
                blobs.insert(member.1);
            }
        }
        Ok(blobs)
    }
}
