//! Collection: what nothing needs any more goes, while everything else goes on.
//!
//! There is no lock and no moment at which everything stands still, and any number of replicas may collect at once. What goes,
//! goes in steps, and each is safe by itself, however long a process sleeps in the middle of it:
//!
//! 1. [`uploads`]: an upload that nobody goes on with ends.
//! 2. [`members`]: a blob of a repository that no manifest there needs is condemned; if that is so still a while later, it is
//!    not in the repository any more.
//! 3. [`blobs`]: the record of a blob that is in no repository is buried.
//! 4. [`data`]: data that no record and no upload refers to is condemned, and deleted a while later.
//!
//! Besides, events go that nobody has delivered for a month ([`outbox`](super::outbox)).
//!
//! An image that was deleted is gone after twice the grace, therefore. What can go wrong on the way leaves something behind
//! for the next time.

mod blobs;
mod data;
mod mark;
mod members;
mod uploads;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Registry, Result, milliseconds, now};

/// What a collection did; or would do in the end, if it was only to look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Uploads that nobody went on with.
    pub uploads: Step,
    /// Blobs of repositories that no manifest of theirs needs, with the bytes that they have for clients.
    pub members: Step,
    /// Blobs that are in no repository, with the bytes that they have for clients.
    pub blobs: Step,
    /// Objects that nothing refers to, with the bytes that they take.
    pub data: Step,
    /// Records, and lists of what a blob is made of, that cannot be read. While there are any, no data is deleted.
    pub unreadable: u64,
}

/// What became of things of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// They go when the grace is over, unless somebody comes to need them.
    pub condemned: Amount,
    /// They are gone.
    pub deleted: Amount,
}

/// How many, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// One collection.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// When it began, in milliseconds since 1970.
    begun: u64,
    grace: Duration,
    /// Nothing is changed.
    only_look: bool,
}

impl Run {
    /// Whether the grace is over for what was condemned then. What was condemned in this run has to wait for another one, which
    /// looks again.
    fn is_over(&self, since: u64) -> bool {
        since < self.begun && since.saturating_add(milliseconds(self.grace)) <= self.begun
    }

    /// Whether something was written lately, so that whoever wrote it may not be done.
    fn is_young(&self, modified: SystemTime) -> bool {
        let modified = milliseconds(modified.duration_since(UNIX_EPOCH).unwrap_or_default());
        modified.saturating_add(milliseconds(self.grace)) > self.begun
    }
}

impl Registry {
    /// Takes away what nothing needs, or tells what there is of it.
    pub async fn collect(&self, only_look: bool) -> Result<Collected> {
        let run = Run { begun: now(), grace: self.rules.grace, only_look };
        // For what this process knows, where nobody uploads anything for long.
        self.index.follow(self.claims.look_now_and_then().await?);
        let mut collected = Collected { uploads: self.collect_uploads(run).await?, ..Collected::default() };
        let (members, unneeded) = self.collect_members(run).await?;
        collected.members = members;
        let (blobs, gone) = self.collect_blobs(run, &unneeded).await?;
        collected.blobs = blobs;
        self.collect_data(run, &gone, &mut collected).await?;
        if !only_look {
            self.forget_events(run.begun).await?;
        }
        Ok(collected)
    }
}
