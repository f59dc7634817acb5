//! What is damaged, put aside: nobody is given it any more, and whoever brings the right bytes can.
//!
//! The object goes to a folder of its own as it is, and a tombstone takes its place, unless somebody has written there
//! meanwhile. Data that the record of a blob refers to stays with it, if it can be read, for as long as uploads do that nobody
//! goes on with: an operator may know better how to save it.

use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use storage_backends::{Condition, Key, Object};
use uuid::Uuid;

use super::record::{BlobRecord, CondemnedData, IndexEntry, Record, Stage};
use super::{Registry, Result, condemn, layout, now, record};

/// Something that was put aside.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Quarantined {
    /// Where it was.
    pub(super) key: String,
    /// What is wrong with it.
    pub(super) reason: String,
    /// Its bytes.
    #[serde(with = "record::inline")]
    pub(super) bytes: bytes::Bytes,
}

impl Record for Quarantined {}

impl Quarantined {
    /// The record of a blob, if that is what it is.
    pub(super) fn blob(&self) -> Option<BlobRecord> {
        let key = Key::parse(self.key.as_str()).ok()?;
        layout::blob_digest(&key)?;
        record::decode(&key, &self.bytes).ok()
    }
}

impl Registry {
    /// Puts an object aside that is as it was found. Says whether it was.
    pub(super) async fn quarantine(&self, key: &Key, found: &Object, reason: &str) -> Result<bool> {
        let aside = Quarantined {
            key: key.as_str().to_owned(),
            reason: reason.to_owned(),
            bytes: found.bytes.clone(),
        };
        let place = layout::quarantined(Uuid::now_v7());
        // Nobody else has this id, and the put may be repeated below us.
        self.store.put(&place, record::encode(&aside), Condition::None).await?;
        if condemn::bury(self.store.as_ref(), key, found.version.clone()).await? {
            return Ok(true);
        }
        self.store.delete(&place).await?;
        Ok(false)
    }

    /// Makes sure that nothing that comes in is taken to be stored where these recipes have it: in this process and, by a list that
    /// all of them read, in the others.
    pub(super) async fn distrust(&self, recipes: &[Uuid], packs: Vec<Uuid>) -> Result<()> {
        let store = self.store.as_ref();
        self.source.packs.avoid(&packs);
        if !packs.is_empty() {
            let list = CondemnedData {
                since: now(),
                data: Vec::new(),
                recipes: Vec::new(),
                damaged: packs,
                stage: Stage::Open,
            };
            let key = layout::condemned_list(Uuid::now_v7());
            store.put(&key, record::encode_unique(&list), Condition::None).await?;
        }
        let mut entries = store.list(&layout::index(), None);
        while let Some(entry) = entries.try_next().await? {
            let found = record::find::<IndexEntry>(store, &entry.key).await;
            let tells = record::unless_damaged(found)?
                .is_some_and(|(found, _)| found.recipes.iter().any(|recipe| recipes.contains(recipe)));
            if tells {
                store.delete(&entry.key).await?;
            }
        }
        Ok(())
    }
}
