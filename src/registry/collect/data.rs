//! Data that no record and no upload refers to.
//!
//! Uploads in flight use data that nobody sees them use ([`claims`](crate::registry::claims)), so what is to be deleted is put
//! on a list first. When the grace is over, the list is closed; then objections are heard, and it is looked once more what is
//! needed; what is left on the list then is deleted. Each of that is one write, and a collection that dies is taken up by the
//! next one.

use std::collections::HashSet;

use futures::TryStreamExt as _;
use storage_backends::{Condition, Entry, Key, Version};
use uuid::Uuid;

use super::mark::Needed;
use super::{Amount, Collected, Run};
use crate::oci::Digest;
use crate::registry::claims::KEPT;
use crate::registry::record::{CondemnedData, IndexEntry, Objection, Stage};
use crate::registry::stored::Stored;
use crate::registry::{Error, Registry, Result, layout, milliseconds, now, record};

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

impl Registry {
    /// Deletes data, and condemns more; in a run that only looks, that of the blobs `gone` too.
    pub(super) async fn collect_data(
        &self,
        run: Run,
        gone: &HashSet<Digest>,
        collected: &mut Collected,
    ) -> Result<()> {
        if run.only_look {
            (collected.data.deleted, collected.unreadable) = self.orphaned_but_for(run, gone).await?;
            return Ok(());
        }
        self.forget_quarantined(run).await?;
        let mut lists = self.lists().await?;
        let decided = async {
            self.close(run, &mut lists).await?;
            // Behind the closing: what comes to be needed from now on is nothing that is on these lists.
            self.hear(&mut lists).await?;
            Ok((self.mark(&HashSet::new()).await?, self.stored().await?))
        };
        let (needed, stored) = match decided.await {
            Ok(decided) => decided,
            Err(error) => {
                if let Err(error) = self.reopen().await {
                    tracing::warn!(%error, "uploads wait until the next collection decides");
                }
                return Err(error);
            }
        };
        collected.unreadable = needed.unreadable;
        if needed.unreadable > 0 {
            return self.reopen().await;
        }
        let mut pending = HashSet::new();
        for list in lists {
            let left = self.settle(run, list, &needed, &stored).await?;
            for object in left.objects() {
                let Some(size) = stored.size_of(object) else { continue };
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

    /// Objects that nothing refers to.
    pub(in crate::registry) async fn orphaned(&self) -> Result<Amount> {
        let run = Run { begun: now(), grace: self.rules.grace, only_look: true };
        Ok(self.orphaned_but_for(run, &HashSet::new()).await?.0)
    }

    /// Objects that nothing but these blobs refers to, and how many records of others cannot be read.
    async fn orphaned_but_for(&self, run: Run, blobs: &HashSet<Digest>) -> Result<(Amount, u64)> {
        let (needed, stored, mut orphaned) =
            (self.mark(blobs).await?, self.stored().await?, Amount::default());
        for (_, size) in stored.others(|id| needed.has(id) || run.is_recent(*id)) {
            orphaned.add(size);
        }
        Ok((orphaned, needed.unreadable))
    }

    /// Deletes what was put aside long ago.
    async fn forget_quarantined(&self, run: Run) -> Result<()> {
        let run = Run { grace: self.rules.abandoned, ..run };
        let mut entries = self.store.list(&layout::quarantine(), None);
        while let Some(entry) = entries.try_next().await? {
            if !run.is_young(entry.modified) {
                self.store.delete(&entry.key).await?;
            }
        }
        Ok(())
    }

    /// All lists; objections are not heard yet.
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
        Ok(lists)
    }

    /// Closes the lists whose grace is over.
    async fn close(&self, run: Run, lists: &mut [List]) -> Result<()> {
        for list in lists {
            if list.condemned.stage == Stage::Open && run.is_over(list.condemned.since) {
                self.advance(list, CondemnedData { stage: Stage::Closed, ..list.condemned.clone() }).await?;
            }
        }
        Ok(())
    }

    /// Opens the lists again that were closed, since it is not known what may be deleted: whoever uses something of a closed list
    /// has to wait.
    async fn reopen(&self) -> Result<()> {
        for mut list in self.lists().await? {
            if list.condemned.stage == Stage::Closed {
                let open = CondemnedData { stage: Stage::Open, ..list.condemned.clone() };
                self.advance(&mut list, open).await?;
            }
        }
        Ok(())
    }

    /// Writes a list anew, unless somebody else has. Says whether it was done.
    async fn advance(&self, list: &mut List, to: CondemnedData) -> Result<bool> {
        let key = layout::condemned_list(list.id);
        let condition = Condition::Unchanged(list.version.clone());
        match self.store.put(&key, record::encode_unique(&to), condition).await {
            Ok(version) => {
                list.condemned = to;
                list.version = version;
                Ok(true)
            }
            Err(storage_backends::Error::Changed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Hears the objections to lists.
    async fn hear(&self, lists: &mut [List]) -> Result<()> {
        let mut entries = self.store.list(&layout::condemned(), None);
        while let Some(entry) = entries.try_next().await? {
            let to = layout::objection_to(&entry.key);
            let Some(list) = lists.iter_mut().find(|list| Some(list.id) == to) else { continue };
            let found = record::find::<Objection>(self.store.as_ref(), &entry.key).await;
            match record::unless_damaged(found)? {
                Some((objection, _)) => list.objected.extend(objection.objects),
                // It is not known to what.
                None => list.objected.extend(list.condemned.objects()),
            }
            list.objections.push(entry.key);
        }
        Ok(())
    }

    /// Goes on with a list, as far as that is possible. Gives what is on it.
    async fn settle(
        &self,
        run: Run,
        mut list: List,
        needed: &Needed,
        stored: &Stored,
    ) -> Result<CondemnedData> {
        let was_settled = list.condemned.stage == Stage::Settled;
        let mut condemned = list.condemned.clone();
        match condemned.stage {
            Stage::Open => return Ok(condemned),
            Stage::Closed => {
                let stays = |object: &Uuid| needed.has(object) || list.objected.contains(object);
                condemned.data.retain(|object| !stays(object));
                condemned.recipes.retain(|object| !stays(object));
                condemned.stage = Stage::Settled;
                if !self.advance(&mut list, condemned.clone()).await? {
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
        if was_settled && old.is_over(condemned.since) {
            for objection in &list.objections {
                self.store.delete(objection).await?;
            }
            self.store.delete(&layout::condemned_list(list.id)).await?;
        }
        Ok(condemned)
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
        let (mut data, mut recipes) = (Vec::new(), Vec::new());
        let stays = |id: &Uuid| needed.has(id) || pending.contains(id) || run.is_recent(*id);
        for (id, size) in stored.others(stays) {
            collected.data.condemned.add(size);
            if stored.recipes.contains_key(&id) { recipes.push(id) } else { data.push(id) }
        }
        let lists = data.chunks(MOST).map(|data| (data, &[][..]));
        for (data, recipes) in lists.chain(recipes.chunks(MOST).map(|recipes| (&[][..], recipes))) {
            let (data, recipes) = (data.to_vec(), recipes.to_vec());
            let list = CondemnedData { since: now(), data, recipes, damaged: Vec::new(), stage: Stage::Open };
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
        record::time_of(id).is_some_and(|begun| begun.saturating_add(milliseconds(self.grace)) > self.begun)
    }
}
