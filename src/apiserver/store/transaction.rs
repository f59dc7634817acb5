//! Writes before they are committed: what one sees that comes after another in the same commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::state::State;
use super::{Change, Key, Object, Range};

/// A change with the JSON that goes to the database.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) change: Change,
    pub(super) json: Vec<u8>,
}

/// The view of one writer: the committed state with its own changes, and those of the writers before it, on top.
pub(crate) struct Transaction<'a> {
    state: &'a State,
    pending: Vec<Pending>,
    /// The newest of `pending` for each key; `None` when it was deleted.
    newest: BTreeMap<Key, Option<Arc<Object>>>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(state: &'a State) -> Self {
        Self { state, pending: Vec::new(), newest: BTreeMap::new() }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        match self.newest.get(key) {
            Some(newest) => newest.as_ref().map(Arc::clone),
            None => self.state.get(key),
        }
    }

    pub(crate) fn list(&self, range: &Range) -> Vec<Arc<Object>> {
        let mut objects: BTreeMap<&Key, &Arc<Object>> =
            self.state.range(range).map(|object| (&object.key, object)).collect();
        for (key, newest) in self.newest.iter().filter(|(key, _)| range.contains(key)) {
            match newest {
                Some(object) => objects.insert(key, object),
                None => objects.remove(key),
            };
        }
        objects.into_values().map(Arc::clone).collect()
    }

    /// Writes an object, new or not; its resourceVersion is set.
    pub(crate) fn put(&mut self, key: Key, value: Value) -> Arc<Object> {
        self.change(key, value, false)
    }

    /// Deletes an object; `last` is how watchers see it for the last time.
    pub(crate) fn remove(&mut self, key: Key, last: Value) -> Arc<Object> {
        self.change(key, last, true)
    }

    fn change(&mut self, key: Key, mut value: Value, deleted: bool) -> Arc<Object> {
        let version = self.version() + 1;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), json!(version.to_string()));
        }
        let json = value.to_string().into_bytes();
        let previous = self.get(&key);
        let object = Arc::new(Object { key: key.clone(), value, version, size: json.len() });
        self.newest.insert(key, (!deleted).then(|| Arc::clone(&object)));
        let change = Change { version, object: Arc::clone(&object), previous, deleted };
        self.pending.push(Pending { change, json });
        object
    }

    fn version(&self) -> u64 {
        self.pending.last().map_or(self.state.version(), |last| last.change.version)
    }

    /// Where [`Transaction::roll_back`] gets back to.
    pub(super) fn mark(&self) -> usize {
        self.pending.len()
    }

    /// Takes back what one writer did, and nothing of those before it.
    pub(super) fn roll_back(&mut self, mark: usize) {
        self.pending.truncate(mark);
        self.newest = self
            .pending
            .iter()
            .map(|Pending { change, .. }| {
                (change.key().clone(), (!change.deleted).then(|| Arc::clone(&change.object)))
            })
            .collect();
    }

    pub(super) fn into_pending(self) -> Vec<Pending> {
        self.pending
    }
}
