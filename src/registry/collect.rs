//! Collection: what nothing needs any more goes, while everything else goes on.
//!
//! There is no lock and no moment at which everything stands still, and any number of replicas may collect at once. What goes,
//! goes in steps, and each is safe by itself, however long a process sleeps in the middle of it:
//!
//! 1. [`retention`]: a tag goes that the rule for its repository does not keep; and a manifest there that nothing needs is
//!    condemned, and goes a while later ([`untagged`]). Where there is no rule, images stay until somebody deletes them.
//! 2. [`uploads`]: an upload that nobody goes on with ends.
//! 3. [`members`]: a blob of a repository that no manifest there needs is condemned; if that is so still a while later, it is
//!    not in the repository any more.
//! 4. [`blobs`]: the record of a blob that is in no repository is buried.
//! 5. [`data`]: data that no record and no upload refers to is condemned, and deleted a while later.
//!
//! Besides, events go that nobody has delivered for a month ([`outbox`](super::outbox)).
//!
//! An image that was deleted is gone after twice the grace, therefore. What can go wrong on the way leaves something behind
//! for the next time.

mod blobs;
mod data;
mod keeping;
mod mark;
mod members;
mod retention;
mod untagged;
mod uploads;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Registry, Result, milliseconds, now, since_1970};
use crate::oci::Digest;

/// Tags and manifests that are told one by one, at most.
const TOLD: usize = 10_000;

/// What a collection did; or would do in the end, if it was only to look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Tags that no clause of a rule keeps.
    #[serde(default)]
    pub tags: Step,
    /// Manifests that nothing needs, in repositories that a rule is for, with the bytes of the manifests alone.
    #[serde(default)]
    pub manifests: Step,
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
    /// The tags and manifests that a rule took away, one by one; or would.
    #[serde(default)]
    pub expired: Vec<Expired>,
    /// How many of them are not told, since there are too many.
    #[serde(default)]
    pub not_told: u64,
}

/// A tag or a manifest that a rule of retention takes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// Where it is.
    pub repository: String,
    /// The tag; `None`: it is the manifest that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The manifest, or what the tag points to.
    pub digest: Digest,
    /// Which rule says so, from 1.
    pub rule: u64,
    /// Bytes of the manifest and of its blobs, as clients see them; others may have the same blobs.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

impl Collected {
    /// Tells of something that goes by a rule.
    fn tell(&mut self, run: Run, expired: Expired) {
        if !run.only_look {
            expired.audit();
        }
        if self.expired.len() < TOLD {
            self.expired.push(expired);
        } else {
            self.not_told += 1;
        }
    }
}

impl Expired {
    /// What goes by itself is told where it is told what somebody deletes.
    fn audit(&self) {
        tracing::info!(
            target: "dvcr::audit",
            action = "expire",
            repository = self.repository,
            reference = self.tag.clone().unwrap_or_else(|| self.digest.to_string()),
            digest = %self.digest,
            outcome = "done",
            rule = self.rule,
            reason = self.reason,
            "audit"
        );
    }
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
        self.is_in_grace(since_1970(modified))
    }

    /// The same of a time in milliseconds since 1970.
    fn is_in_grace(&self, written: u64) -> bool {
        written.saturating_add(milliseconds(self.grace)) > self.begun
    }
}

impl Registry {
    /// Takes away what nothing needs, or tells what there is of it.
    pub async fn collect(&self, only_look: bool) -> Result<Collected> {
        let run = Run { begun: now(), grace: self.rules.grace, only_look };
        // For what this process knows, where nobody uploads anything for long.
        self.index.follow(self.claims.look_now_and_then().await?);
        let mut collected = Collected::default();
        let gone = self.collect_by_rule(run, &mut collected).await?;
        collected.uploads = self.collect_uploads(run).await?;
        let (members, unneeded) = self.collect_members(run, &gone).await?;
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
