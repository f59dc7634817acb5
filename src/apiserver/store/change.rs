//! What the store holds, and how it changed.

use std::sync::Arc;

use serde_json::Value;

use super::Key;

/// An object as it was at one version. It never changes: a write makes another one.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: Key,
    pub(crate) value: Value,
    /// Of its last change, as in `metadata.resourceVersion`.
    pub(crate) version: u64,
    /// Of its JSON, in bytes.
    pub(super) size: usize,
}

/// One write to one object. Every change has a version of its own, without gaps.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) object: Arc<Object>,
    /// As it was before; `None` when it was created.
    pub(crate) previous: Option<Arc<Object>>,
    /// `object` is its last state then.
    pub(crate) deleted: bool,
}

impl Change {
    pub(crate) fn key(&self) -> &Key {
        &self.object.key
    }

    pub(super) fn size(&self) -> usize {
        self.object.size + self.previous.as_ref().map_or(0, |previous| previous.size)
    }
}
