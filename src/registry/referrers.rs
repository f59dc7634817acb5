//! Referrers: manifests that name another one as their subject.
//!
//! They are listed from the moment they are pushed, whatever the client knows of this API. So the lists that
//! older clients keep in tags (`sha256-<hex>`) need no migration here: what is in them was pushed, and
//! is listed ("Enabling the Referrers API").

use futures::{StreamExt, TryStreamExt};
use storage_backends::Condition;

use super::manifest::Sweep;
use super::record::ReferrerRecord;
use super::{Registry, Result, layout, record};
use crate::oci::{Digest, Referrer, RepositoryName};

/// Referrers that are read at one time.
const LOOKUPS: usize = 16;

/// A page ends when its descriptors come to this, since each may have as many annotations as fit into a
/// manifest. As much as a manifest, which clients take.
const MAX_PAGE_BYTES: u64 = 4 << 20;

/// A page of the referrers of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferrersPage {
    /// Their descriptors, in byte order of their digests.
    pub referrers: Vec<Referrer>,
    /// Whether more follow the last one.
    pub more: bool,
}

impl Registry {
    /// Up to `limit` referrers of a subject, which need not exist (end-12): those after the digest `last`, and of one
    /// artifact type if asked.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        limit: usize,
        last: Option<&Digest>,
    ) -> Result<ReferrersPage> {
        let after = last.map(|last| layout::referrer(name, subject, last));
        let store = self.store.as_ref();
        let mut found = store
            .list(&layout::referrers(name, subject), after.as_ref())
            .map(|entry| async {
                let entry = entry?;
                let found = record::find::<ReferrerRecord>(store, &entry.key).await?;
                Ok::<_, super::Error>(found.map(|(record, _)| (record.referrer, entry.size)))
            })
            .buffered(LOOKUPS);
        let mut bytes = 0;
        let mut page = ReferrersPage { referrers: Vec::new(), more: false };
        while let Some(entry) = found.try_next().await? {
            // Deleted, before or since the listing.
            let Some((referrer, stored)) = entry else { continue };
            if artifact_type.is_some_and(|wanted| referrer.artifact_type.as_deref() != Some(wanted)) {
                continue;
            }
            if page.referrers.len() == limit || bytes >= MAX_PAGE_BYTES {
                page.more = true;
                break;
            }
            bytes += stored;
            page.referrers.push(referrer);
        }
        Ok(page)
    }

    pub(super) async fn delete_referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        digest: &Digest,
        sweep: Sweep,
    ) -> Result<()> {
        let key = layout::referrer(name, subject, digest);
        self.retire(&key, name, digest, sweep, |_: &ReferrerRecord| true).await
    }

    pub(super) async fn add_referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<()> {
        let key = layout::referrer(name, subject, &referrer.digest);
        let record = ReferrerRecord { referrer: referrer.clone() };
        self.store.put(&key, record::encode_unique(&record), Condition::None).await?;
        Ok(())
    }
}
