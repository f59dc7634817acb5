//! Referrers: manifests that name another one as their subject.

use futures::{StreamExt, TryStreamExt};
use storage_backends::Condition;

use super::{Registry, Result, layout, record};
use crate::oci::{Digest, Referrer, RepositoryName};

/// Referrers that are read at one time.
const LOOKUPS: usize = 16;

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
                record::find::<Referrer>(store, &entry.key).await
            })
            .buffered(LOOKUPS);
        let mut page = ReferrersPage { referrers: Vec::new(), more: false };
        while let Some(entry) = found.try_next().await? {
            // Gone since the listing.
            let Some((referrer, _)) = entry else { continue };
            if artifact_type.is_some_and(|wanted| referrer.artifact_type.as_deref() != Some(wanted)) {
                continue;
            }
            if page.referrers.len() == limit {
                page.more = true;
                break;
            }
            page.referrers.push(referrer);
        }
        Ok(page)
    }

    pub(super) async fn add_referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<()> {
        let key = layout::referrer(name, subject, &referrer.digest);
        self.store.put(&key, record::encode(referrer), Condition::None).await?;
        Ok(())
    }
}
