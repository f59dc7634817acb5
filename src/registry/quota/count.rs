//! Counting: what the repositories of a quota hold, by what is stored below them.
//!
//! Names say what there is, but for the sizes of blobs, which are read once: they never change.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use storage_backends::Key;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::Kept;
use super::usage::{Found, Item};
use crate::oci::Digest;
use crate::registry::record::{self, BlobRecord, Membership};
use crate::registry::{LOOKUPS, Result, layout};

impl Kept {
    /// Counts. Nobody else does who does not have the turn.
    pub(super) async fn count(self: Arc<Self>, _turn: OwnedMutexGuard<()>) -> Result<()> {
        let begun = Instant::now();
        let (mut found, mut unknown) = (Found::default(), HashMap::new());
        for folder in &self.quota.folders {
            self.list(folder, &mut found, &mut unknown).await?;
        }
        let this = &self;
        let read = |(digest, membership): (Digest, Key)| async move {
            let size = this.size(&digest, &membership).await?;
            let id = Item::id_of(&digest);
            // If counting fails further on, the next one need not read this again.
            this.usage().learn(id, size);
            Ok::<_, crate::registry::Error>((id, size))
        };
        let mut sizes = stream::iter(unknown).map(read).buffer_unordered(LOOKUPS);
        while let Some((id, size)) = sizes.try_next().await? {
            found.contents.insert(id, size);
        }
        self.usage().count(found, begun);
        Ok(())
    }

    /// Adds what is in a folder of names. Blobs whose sizes are not known are put aside, each with a membership.
    async fn list(&self, folder: &str, found: &mut Found, unknown: &mut HashMap<Digest, Key>) -> Result<()> {
        let mut entries = self.store.list(&layout::repositories_in(folder), None);
        while let Some(entry) = entries.try_next().await? {
            if record::is_tombstone(entry.size) {
                continue;
            }
            if let Some((name, digest)) = layout::member(&entry.key) {
                if !self.has(&name) {
                    continue;
                }
                let id = Item::id_of(&digest);
                let known = self.usage().size_of(id);
                match known {
                    Some(size) => drop(found.contents.insert(id, size)),
                    None => drop(unknown.insert(digest, entry.key)),
                }
            } else if let Some((name, digest)) = layout::manifest_of(&entry.key) {
                if self.has(&name) {
                    found.contents.insert(Item::id_of(&digest), entry.size);
                }
            } else if let Some((name, tag)) = layout::tag_of(&entry.key)
                && entry.size > 0
                && self.has(&name)
            {
                found.tags.insert(Item::id_of_tag(&name, &tag));
            }
        }
        Ok(())
    }

    /// The size of a blob; 0 where that is damaged: there is no reading it, and a verification heals it.
    async fn size(&self, digest: &Digest, membership: &Key) -> Result<u64> {
        let store = self.store.as_ref();
        let found = record::find::<Membership>(store, membership).await;
        if let Some((member, _)) = record::unless_damaged(found)? {
            return Ok(member.size);
        }
        // It has left this repository just now, and may be in another one.
        let found = record::find::<BlobRecord>(store, &layout::blob(digest)).await;
        Ok(record::unless_damaged(found)?.map_or(0, |(blob, _)| blob.size))
    }
}
