//! All objects, in memory: what reads are answered from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::window::{TooOld, Window, WindowSize};
use super::{Change, Key, Object, Range};

#[derive(Debug)]
pub(super) struct State {
    objects: BTreeMap<Key, Arc<Object>>,
    version: u64,
    window: Window,
}

/// Objects that were there at one moment, in the order of their keys.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) version: u64,
}

impl State {
    pub(super) fn new(objects: BTreeMap<Key, Arc<Object>>, version: u64, window: WindowSize) -> Self {
        Self { objects, version, window: Window::new(window, version) }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.objects.get(key).map(Arc::clone)
    }

    pub(super) fn range(&self, range: &Range) -> impl Iterator<Item = &Arc<Object>> {
        let range = range.clone();
        self.objects
            .range(range.start()..)
            .take_while(move |(key, _)| range.contains(key))
            .map(|(_, object)| object)
    }

    pub(super) fn list(&self, range: &Range) -> Snapshot {
        Snapshot { objects: self.range(range).map(Arc::clone).collect(), version: self.version }
    }

    /// As it was at `version`: the changes since then are undone.
    pub(super) fn list_at(&self, range: &Range, version: u64) -> Result<Snapshot, TooOld> {
        let mut before: BTreeMap<&Key, Option<&Arc<Object>>> = BTreeMap::new();
        for change in self.window.after(version)?.filter(|change| range.contains(change.key())) {
            before.entry(change.key()).or_insert(change.previous.as_ref());
        }
        let mut objects: BTreeMap<&Key, &Arc<Object>> =
            self.range(range).map(|object| (&object.key, object)).collect();
        for (key, previous) in before {
            match previous {
                Some(object) => objects.insert(key, object),
                None => objects.remove(key),
            };
        }
        Ok(Snapshot { objects: objects.into_values().map(Arc::clone).collect(), version })
    }

    pub(super) fn changes(
        &self,
        after: u64,
        range: &Range,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, u64), TooOld> {
        let mut changes = Vec::new();
        for change in self.window.after(after)? {
            if changes.len() == limit {
                return Ok((changes, change.version - 1));
            }
            if range.contains(change.key()) {
                changes.push(Arc::clone(change));
            }
        }
        Ok((changes, self.version.max(after)))
    }

    pub(super) fn publish(&mut self, change: Arc<Change>) {
        self.version = change.version;
        if change.deleted {
            self.objects.remove(change.key());
        } else {
            self.objects.insert(change.key().clone(), Arc::clone(&change.object));
        }
        self.window.push(change);
    }
}
