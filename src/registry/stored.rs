//! [`Stored`]: which data objects and recipes there are, and how large they are.
//!
//! A listing, no more: what it does not have may have been written since.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use uuid::Uuid;

use super::{Registry, Result, layout};

/// What is stored below `data/` and `recipes/`, with bytes.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) data: HashMap<Uuid, u64>,
    pub(super) recipes: HashMap<Uuid, u64>,
}

impl Stored {
    pub(super) fn size_of(&self, object: &Uuid) -> Option<u64> {
        self.data.get(object).or_else(|| self.recipes.get(object)).copied()
    }

    /// All but those, with bytes.
    pub(super) fn others(&self, but: impl Fn(&Uuid) -> bool) -> impl Iterator<Item = (Uuid, u64)> {
        let all = self.data.iter().chain(&self.recipes).map(|(id, size)| (*id, *size));
        all.filter(move |(id, _)| !but(id))
    }
}

impl Registry {
    /// What is stored now.
    pub(super) async fn stored(&self) -> Result<Stored> {
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
}
