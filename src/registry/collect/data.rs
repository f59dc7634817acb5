//! Data that no record and no upload refers to.
//!
//! Uploads in flight use data that nobody sees them use ([`claims`](crate::registry::claims)), so what is to be deleted is put
//! on a list first. When the grace is over, the list is closed; then objections are heard, and it is looked once more what is
//! needed; what is left on the list then is deleted. Each of that is one write, and a collection that dies is taken up by the
//! next one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::TryStreamExt as _;
use storage_backends::{Condition, Entry, Key, Version};
use uuid::Uuid;

use super::mark::Needed;
use super::{Collected, Run};
use crate::oci::Digest;
use crate::registry::claims::KEPT;
use crate::registry::record::{CondemnedData, IndexEntry, Objection, Stage};
use crate::registry::{Error, Registry, Result, layout, record};

/// Objects on one list, at most.
const MOST: usize = 10_000;

/// A list of what is condemned.
#[derive(Debug)]
struct List {
    id: Uuid,
    condemned: CondemnedData,
    version: Version,
    /// What somebody has come to use.
    objected: HashSet<Uuid>,
    objections: Vec<Key>,
}

/// What is stored, with sizes.
#[derive(Debug, Default)]
struct Stored {
    data: HashMap<Uuid, u64>,
    recipes: HashMap<Uuid, u64>,
}

impl Stored {
    fn has(&self, object: &Uuid) -> Option<u64> {
        self.data.get(object).or_else(|| self.recipes.get(object)).copied()
    }
}

impl Registry {
    /// Deletes data, and condemns more; in a run that only looks, that of the blobs `gone` too.
    pub(super) async fn collect_data(
        &self,
        run: Run,
        gone: &HashSet<Digest>,
        collected: &mut Collected,
    ) -> Result<()> {
        if !run.only_look {
            self.close_lists(run).await?;
        }
        // Behind the closing: what comes to be needed from now on is nothing that is on these lists.
        let lists = self.lists().await?;
        let none = HashSet::new();
        let needed = self.mark(if run.only_look { gone } else { &none }).await?;
        let stored = self.stored().await?;
        collected.unreadable = needed.unreadable;
        if run.only_look {
            for (id, size) in stored.data.iter().chain(&stored.recipes) {
                if !needed.has(id) && !run.is_recent(*id) {
                    collected.data.deleted.add(*size);
                }
            }
            return Ok(());
        }
        if needed.unreadable > 0 {
            return Ok(());
        }
        let mut pending = HashSet::new();
        for list in lists {
            let left = self.settle(run, list, &needed, &stored).await?;
            for object in left.objects() {
                let Some(size) = stored.has(object) else { continue };
                if left.stage == Stage::Settled {
                    collected.data.deleted.add(size);
                } else {
                    pending.insert(*object);
                    collected.data.condemned.add(size);
                }
            }
        }
        self.condemn_data(run, &needed, &stored, &pending, collected).await?;
        self.prune_index(run, &needed).await
    }

    /// Closes the lists whose grace is over.
    async fn close_lists(&self, run: Run) -> Result<()> {
        for list in self.lists().await? {
            if list.condemned.stage == Stage::Open && run.is_over(list.condemned.since) {
                self.advance(&list, CondemnedData { stage: Stage::Closed, ..list.condemned.clone() }).await?;
            }
        }
        Ok(())
    }

    /// Writes a list anew, unless somebody else has. Says whether it was done.
    async fn advance(&self, list: &List, to: CondemnedData) -> Result<bool> {
        let key = layout::condemned_list(list.id);
        let condition = Condition::Unchanged(list.version.clone());
        match self.store.put(&key, record::encode_unique(&to), condition).await {
            Ok(_) => Ok(true),
            Err(storage_backends::Error::Changed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// All lists, with the objections to them.
    async fn lists(&self) -> Result<Vec<List>> {
        let store = self.store.as_ref();
        let entries: Vec<Entry> = store.list(&layout::condemned(), None).try_collect().await?;
        let mut lists = Vec::new();
        for entry in &entries {
            let Some(id) = layout::id(&entry.key) else { continue };
            let found = record::find::<CondemnedData>(store, &entry.key).await;
            let Some((condemned, version)) = record::unless_damaged(found)? else { continue };
            lists.push(List { id, condemned, version, objected: HashSet::new(), objections: Vec::new() });
        }
        // Read behind the lists, of which some are closed: what is objected to them from now on is not heard.
        let entries: Vec<Entry> = store.list(&layout::condemned(), None).try_collect().await?;
        for entry in entries {
            let list = layout::objection_to(&entry.key);
            let Some(list) = lists.iter_mut().find(|other| Some(other.id) == list) else { continue };
            let found = record::find::<Objection>(store, &entry.key).await;
            match record::unless_damaged(found)? {
                Some((objection, _)) => list.objected.extend(objection.objects),
                // It is not known to what.
                None => list.objected.extend(list.condemned.objects()),
            }
            list.objections.push(entry.key);
        }
        Ok(lists)
    }

    /// Goes on with a list, as far as that is possible. Gives what is on it.
    async fn settle(&self, run: Run, list: List, needed: &Needed, stored: &Stored) -> Result<CondemnedData> {
        let mut condemned = list.condemned.clone();
        match condemned.stage {
            Stage::Open => return Ok(condemned),
            Stage::Closed => {
                let stays = |object: &Uuid| needed.has(object) || list.objected.contains(object);
                condemned.data.retain(|object| !stays(object));
                condemned.recipes.retain(|object| !stays(object));
                condemned.stage = Stage::Settled;
                if !self.advance(&list, condemned.clone()).await? {
                    // Another replica collects too.
                    return Ok(CondemnedData { data: Vec::new(), recipes: Vec::new(), ..condemned });
                }
            }
            Stage::Settled => {}
        }
        for recipe in condemned.recipes.iter().filter(|recipe| stored.recipes.contains_key(recipe)) {
            self.store.delete(&layout::recipe(*recipe)).await?;
        }
        for object in condemned.data.iter().filter(|object| stored.data.contains_key(object)) {
            self.store.delete(&layout::data(*object)).await?;
        }
        // Who has not looked for so long knows that it does not know.
        let old = Run { grace: run.grace + KEPT + self.rules.abandoned, ..run };
        if list.condemned.stage == Stage::Settled && old.is_over(condemned.since) {
            for objection in &list.objections {
                self.store.delete(objection).await?;
            }
            self.store.delete(&layout::condemned_list(list.id)).await?;
        }
        Ok(condemned)
    }

    /// What is stored below `data/` and `recipes/`.
    async fn stored(&self) -> Result<Stored> {
        let mut stored = Stored::default();
        for (folder, into) in
            [(layout::data_objects(), &mut stored.data), (layout::recipes(), &mut stored.recipes)]
        {
            let mut entries = self.store.list(&folder, None);
            while let Some(entry) = entries.try_next().await? {
                if let Some(id) = layout::id(&entry.key) {
                    into.insert(id, entry.size);
                }
            }
        }
        Ok(stored)
    }

    /// Puts what nothing needs on lists.
    async fn condemn_data(
        &self,
        run: Run,
        needed: &Needed,
        stored: &Stored,
        pending: &HashSet<Uuid>,
        collected: &mut Collected,
    ) -> Result<()> {
        let mut condemn = |objects: &HashMap<Uuid, u64>| {
            let mut found = Vec::new();
            for (id, size) in objects {
                if !needed.has(id) && !pending.contains(id) && !run.is_recent(*id) {
                    collected.data.condemned.add(*size);
                    found.push(*id);
                }
            }
            found
        };
        let (data, recipes) = (condemn(&stored.data), condemn(&stored.recipes));
        let lists = data.chunks(MOST).map(|data| (data, &[][..]));
        for (data, recipes) in lists.chain(recipes.chunks(MOST).map(|recipes| (&[][..], recipes))) {
            let (data, recipes) = (data.to_vec(), recipes.to_vec());
            let list = CondemnedData { since: super::now(), data, recipes, stage: Stage::Open };
            let key = layout::condemned_list(Uuid::now_v7());
            self.store.put(&key, record::encode_unique(&list), Condition::Absent).await?;
        }
        Ok(())
    }

    /// Removes what would tell of the chunks of recipes that nothing needs.
    async fn prune_index(&self, run: Run, needed: &Needed) -> Result<()> {
        let store = self.store.as_ref();
        let mut entries = store.list(&layout::index(), None);
        while let Some(entry) = entries.try_next().await? {
            if run.is_young(entry.modified) {
                continue;
            }
            match record::find::<IndexEntry>(store, &entry.key).await {
                Ok(Some((found, _))) if found.recipes.iter().any(|id| needed.recipes.contains(id)) => {}
                Ok(_) | Err(Error::Record { .. }) => store.delete(&entry.key).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Run {
    /// Whether an object was begun lately, by the time that is in its id.
    fn is_recent(&self, id: Uuid) -> bool {
        let begun = id.get_timestamp().map(|timestamp| {
            let (seconds, nanoseconds) = timestamp.to_unix();
            Duration::new(seconds, nanoseconds)
        });
        begun.is_some_and(|begun| super::milliseconds(begun + self.grace) > self.begun)
    }
}
