//! Verification: whether what is stored is there, and is what was pushed.
//!
//! Disks and buckets lose bytes and tell nobody. This reads what is stored while everything else goes on, and tells what is
//! missing or damaged. What is damaged is put aside ([`quarantine`](super::quarantine)), so that clients are told that it is not
//! there: who pushes it again heals it. Nothing else is changed.
//!
//! 1. [`records`]: everything that is small, and whether it points to something.
//! 2. [`blobs`]: whether the data of each blob is there and, as [`Depth`] has it, whether it is right. A chunk that many blobs
//!    have is read once ([`seen`]).
//!
//! How far it is stands in the store ([`progress`]), so that one that was broken off is taken up again, by any replica. From time
//! to time one of them begins by itself ([`schedule`]).

mod blobs;
mod progress;
mod records;
mod schedule;
mod seen;
mod tally;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::pace::Pace;
use super::{Amount, Registry, Result};
use crate::oci::{Digest, RepositoryName};
pub use schedule::Verifier;
pub use tally::VerifyTally;

/// How much is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Records and lists of chunks: whether all data is there, and as long as it should be.
    Quick,
    /// Besides, every stored byte once, against the hash under which it was stored.
    #[default]
    Stored,
    /// Besides, every blob as clients get it, against its digest: what many blobs have is read many times.
    Deep,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Verification {
    /// How much is read.
    pub depth: Depth,
    /// Stored bytes that are read in a second, at most.
    pub rate: Option<u64>,
    /// Nothing is put aside.
    pub only_look: bool,
    /// Begins anew, also where an earlier one was broken off.
    pub restart: bool,
}

/// What happens, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verified {
    /// So much is to be done.
    Begins {
        /// Blobs.
        blobs: u64,
        /// Their bytes, as clients get them.
        bytes: u64,
        /// Of those bytes, what an earlier verification did.
        passed: u64,
    },
    /// So many of those bytes have been passed.
    Passes(u64),
    /// Something is not as it should be.
    Found(Finding),
    /// That was all.
    Ends(Checked),
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// The key of its record.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// The blob or the manifest that is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Who has that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
    /// Whether it was put aside, so that it can be pushed again.
    pub quarantined: bool,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The bytes of a blob, or the record of where they are.
    Blob,
    /// A manifest, or what it needs.
    Manifest,
    /// That a repository has a blob.
    Membership,
    /// A tag.
    Tag,
    /// A referrer.
    Referrer,
    /// An upload that was not finished.
    Upload,
    /// A record of the collection or of known chunks, or an event.
    Upkeep,
    /// The store failed: it is not known how it is.
    Unknown,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Manifests.
    pub manifests: u64,
    /// Tags.
    pub tags: u64,
    /// Blobs, with the bytes that they have for clients.
    pub blobs: Amount,
    /// Bytes that were read of what is stored, records apart.
    pub read: u64,
    /// What was found.
    pub findings: u64,
    /// Of that, where the store failed, so that nobody knows how it is.
    #[serde(default)]
    pub unknown: u64,
    /// Objects that nothing refers to, with the bytes that they take. They are no findings: a collection takes them.
    pub orphaned: Amount,
}

/// Where findings go to.
#[derive(Debug)]
struct Report<'a> {
    lines: &'a mpsc::Sender<Verified>,
    tally: Checked,
    /// That of all verifications.
    of_all: &'a VerifyTally,
    only_look: bool,
    pace: Pace,
    /// Bytes of blobs that have been passed, as clients get them.
    passed: u64,
    /// When something was last said of that.
    said: Instant,
}

/// How often it is told how far it is, in the middle of a blob too.
const TICK: Duration = Duration::from_secs(1);

/// Nobody wants to hear the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unheard;

impl Report<'_> {
    async fn found(&mut self, finding: Finding) -> Result<(), Unheard> {
        self.tally.findings += 1;
        if finding.kind == Kind::Unknown {
            self.tally.unknown += 1;
        } else {
            self.of_all.found();
        }
        tracing::error!(
            key = finding.key,
            reason = finding.reason,
            quarantined = finding.quarantined,
            "what is stored is damaged"
        );
        self.say(Verified::Found(finding)).await
    }

    /// Some of what is stored was read.
    async fn read(&mut self, bytes: u64) -> Result<(), Unheard> {
        self.tally.read += bytes;
        self.of_all.read(bytes);
        tokio::select! {
            () = self.pace.read(bytes) => {}
            () = self.lines.closed() => return Err(Unheard),
        }
        if self.said.elapsed() < TICK {
            return Ok(());
        }
        self.pass(0).await
    }

    /// So many bytes more have been passed.
    async fn pass(&mut self, bytes: u64) -> Result<(), Unheard> {
        self.passed += bytes;
        self.said = Instant::now();
        self.say(Verified::Passes(self.passed)).await
    }

    async fn say(&self, what: Verified) -> Result<(), Unheard> {
        self.lines.send(what).await.map_err(|_| Unheard)
    }
}

impl Registry {
    /// Verifies what is stored, and tells what it finds as long as somebody listens; `None` if nobody did to the end. An error is
    /// that of a store that gives no listing; all others are findings.
    pub async fn verify(
        &self,
        wanted: Verification,
        lines: &mpsc::Sender<Verified>,
    ) -> Result<Option<Checked>> {
        let mut report = Report {
            lines,
            tally: Checked::default(),
            of_all: &self.verify_tally,
            only_look: wanted.only_look,
            pace: Pace::new(wanted.rate),
            passed: 0,
            said: Instant::now(),
        };
        let Ok((blobs, owners)) = self.verify_records(&mut report).await? else { return Ok(None) };
        let verified = self.verify_blobs(wanted, blobs, &owners, &mut report).await?;
        let Ok(()) = verified else { return Ok(None) };
        report.tally.orphaned = self.orphaned().await?;
        let _ = report.say(Verified::Ends(report.tally)).await;
        Ok(Some(report.tally))
    }
}

/// Names of repositories as they are told.
fn told(repositories: &[RepositoryName]) -> Vec<String> {
    repositories.iter().map(ToString::to_string).collect()
}
