//! The newest changes, which watches are served from.
//!
//! Watchers have no queues of their own: each remembers the version it has got to and reads on from here. One
//! that is too slow finds that its place is gone and has to list again, so memory is bounded however many there
//! are. The same changes, undone, give the state at a version of the past, which paged lists need.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Change;

/// What a window holds at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowSize {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

impl Default for WindowSize {
    fn default() -> Self {
        Self { changes: 10_000, bytes: 64 << 20 }
    }
}

/// The version asked for is older than the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooOld {
    pub(crate) oldest: u64,
}

#[derive(Debug)]
pub(super) struct Window {
    size: WindowSize,
    /// Every change after this version is here.
    since: u64,
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
}

impl Window {
    pub(super) fn new(size: WindowSize, since: u64) -> Self {
        Self { size, since, changes: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, change: Arc<Change>) {
        self.bytes += change.size();
        self.changes.push_back(change);
        while self.changes.len() > self.size.changes || self.bytes > self.size.bytes {
            let Some(dropped) = self.changes.pop_front() else { break };
            self.bytes -= dropped.size();
            self.since = dropped.version;
        }
    }

    pub(super) fn after(&self, version: u64) -> Result<impl Iterator<Item = &Arc<Change>>, TooOld> {
        if version < self.since {
            return Err(TooOld { oldest: self.since });
        }
        let known = self.changes.partition_point(|change| change.version <= version);
        Ok(self.changes.range(known..))
    }
}
