//! Tags: movable names of manifests. The last writer wins.

use futures::TryStreamExt;
use storage_backends::Condition;

use super::manifest::Sweep;
use super::record::TagRecord;
use super::{Error, Page, Registry, Result, layout, record};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

impl Registry {
    /// Up to `limit` tags after `last`, in byte order (end-8).
    pub async fn tags(&self, name: &RepositoryName, limit: usize, last: Option<&Tag>) -> Result<Page<Tag>> {
        let after = last.map(|last| layout::tag(name, last));
        let mut page = Page { entries: Vec::new(), more: false };
        if limit > 0 {
            let mut entries = self.store.list(&layout::tags(name), after.as_ref());
            while let Some(entry) = entries.try_next().await? {
                // Of a deleted tag something stays.
                let is_there = !record::is_tombstone(entry.size);
                let Some(tag) = layout::tag_name(&entry.key).filter(|_| is_there) else { continue };
                if page.entries.len() == limit {
                    page.more = true;
                    break;
                }
                page.entries.push(tag);
            }
        }
        if page.entries.is_empty() {
            self.require_repository(name).await?;
        }
        Ok(page)
    }

    /// What a tag points to.
    pub(super) async fn find_tag(&self, name: &RepositoryName, tag: &Tag) -> Result<Option<Digest>> {
        let found = record::find::<TagRecord>(self.store.as_ref(), &layout::tag(name, tag)).await?;
        Ok(found.map(|(record, _)| record.digest))
    }

    /// Points a tag to a manifest that is stored already.
    pub(super) async fn move_tag(&self, name: &RepositoryName, tag: &Tag, digest: &Digest) -> Result<()> {
        let index = layout::tagged_entry(name, digest, tag);
        self.store.put(&index, bytes::Bytes::new(), Condition::None).await?;
        let bytes = record::encode_unique(&TagRecord { digest: digest.clone() });
        self.store.put(&layout::tag(name, tag), bytes, Condition::None).await?;
        Ok(())
    }

    /// Deletes a tag, and nothing else (end-9 by tag).
    pub async fn delete_tag(&self, name: &RepositoryName, tag: &Tag) -> Result<()> {
        if self.find_tag(name, tag).await?.is_none() {
            return Err(Error::ManifestUnknown {
                name: name.clone(),
                reference: Reference::Tag(tag.clone()),
            });
        }
        self.store.delete(&layout::tag(name, tag)).await?;
        self.quotas.freed(name);
        Ok(())
    }

    /// Deletes every tag that points to a manifest, and no tag that is just being moved away from it.
    pub(super) async fn delete_tags_of(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        sweep: Sweep,
    ) -> Result<()> {
        let entries: Vec<_> = self.store.list(&layout::tagged(name, digest), None).try_collect().await?;
        for entry in entries {
            // The entry stays: the tag may be on its way back.
            let Some(tag) = layout::tag_name(&entry.key) else { continue };
            let points_there = |record: &TagRecord| record.digest == *digest;
            self.retire(&layout::tag(name, &tag), name, digest, sweep, points_there).await?;
        }
        Ok(())
    }
}
