//! The outbox: events about changes, kept in the store until somebody outside has been told of them.
//!
//! It is a folder for each queue, with an object for each event, named by a time-ordered id: a listing is the queue in its order,
//! and whoever has delivered an event deletes the object. All processes over the store share it, and it outlives them.
//!
//! - Of a **push** the event is written when the manifest and its tags are durable, before the client is told. If it cannot be
//!   written the push is not acknowledged, and the client's next try writes it: a push may be repeated.
//! - A **deletion** cannot be repeated: the second one finds nothing. So its event is written before it, as an [`Intent`],
//!   and confirmed behind it. Whoever finds an intent that was never confirmed looks whether it happened
//!   ([`Registry::has_happened`]).
//!
//! An event may thus be told twice, and of what was not acknowledged; what was acknowledged is told.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use storage_backends::{Condition, Key, Version};
use uuid::Uuid;

use super::event::{Change, Event};
use super::{Error, Registry, Result, layout, milliseconds, record};

/// Events that nobody has delivered for so long are deleted, so that those of a queue that nobody serves any more do not stay for
/// ever. No deliverer may go on for longer.
pub const LONGEST_WAIT: Duration = Duration::from_hours(30 * 24);

/// The name of a queue: lower-case letters, digits and `-`, up to 63 of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Box<str>);

/// The text is no name of a queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name: it has 1 to 63 lower-case letters, digits and -, and begins with a letter or a digit"
)]
pub struct InvalidQueueName(String);

impl QueueName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = InvalidQueueName;

    fn from_str(text: &str) -> Result<Self, InvalidQueueName> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=63).contains(&text.len()) && text.bytes().all(is_plain) && !text.starts_with('-') {
            Ok(Self(text.into()))
        } else {
            Err(InvalidQueueName(text.to_owned()))
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event as it is stored. When it was written is in its id.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventRecord {
    #[serde(flatten)]
    event: Event,
    /// It is about to happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    intended: bool,
}

impl record::Record for EventRecord {}

/// An event as it was found in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// What has happened.
    pub event: Event,
    /// Whether it may not have happened: see [`Registry::has_happened`].
    pub unconfirmed: bool,
}

/// An event that was written ahead of what it tells.
#[derive(Debug)]
#[must_use = "it is confirmed when it has happened, and retracted if it has not"]
pub struct Intent {
    event: Event,
    entries: Vec<(Key, Version)>,
}

impl Registry {
    /// Puts an event into queues. It is in all of them, durable, when this returns; after an error it may be in some.
    pub async fn post(&self, queues: &[QueueName], event: Event) -> Result<()> {
        self.put_event(queues, event, false).await.map(drop)
    }

    /// The same for what is about to happen.
    pub async fn intend(&self, queues: &[QueueName], event: Event) -> Result<Intent> {
        self.put_event(queues, event, true).await
    }

    async fn put_event(&self, queues: &[QueueName], event: Event, intended: bool) -> Result<Intent> {
        let id = Uuid::now_v7();
        let record = EventRecord { event, intended };
        let bytes = record::encode(&record);
        let puts = queues.iter().map(|queue| {
            let (key, bytes) = (layout::event(queue.as_str(), id), bytes.clone());
            async move {
                // Nobody else has this id, and the put may be repeated below us.
                let version = self.store.put(&key, bytes, Condition::None).await?;
                Ok::<_, Error>((key, version))
            }
        });
        let entries = try_join_all(puts).await?;
        Ok(Intent { event: record.event, entries })
    }

    /// What was intended has happened.
    pub async fn confirm(&self, intent: Intent) -> Result<()> {
        let bytes = record::encode(&EventRecord { event: intent.event, intended: false });
        let puts = intent.entries.into_iter().map(|(key, version)| {
            let bytes = bytes.clone();
            async move {
                let store = self.store.as_ref();
                let confirmed =
                    record::put_unique(store, &key, bytes.clone(), Condition::Unchanged(version)).await?;
                if confirmed.is_none() {
                    // Somebody saw that it has happened and delivered it, or took it away because it had not for long: whoever is
                    // told twice knows it by its id.
                    record::put_unique(store, &key, bytes, Condition::Absent).await?;
                }
                Ok::<_, Error>(())
            }
        });
        try_join_all(puts).await.map(drop)
    }

    /// What was intended has not happened, and will not.
    pub async fn retract(&self, intent: Intent) -> Result<()> {
        for (key, _) in &intent.entries {
            self.store.delete(key).await?;
        }
        Ok(())
    }

    /// The ids of up to `limit` events of a queue, in the order in which they were written: by the clocks of those who did.
    pub async fn pending(&self, queue: &QueueName, limit: usize) -> Result<Vec<Uuid>> {
        let mut pending = Vec::new();
        let mut entries = self.store.list(&layout::outbox_queue(queue.as_str()), None);
        while pending.len() < limit
            && let Some(entry) = entries.try_next().await?
        {
            pending.extend(layout::id(&entry.key).filter(|_| !record::is_tombstone(entry.size)));
        }
        Ok(pending)
    }

    /// An event, if it is in the queue still.
    pub async fn posted(&self, queue: &QueueName, id: Uuid) -> Result<Option<Posted>> {
        let key = layout::event(queue.as_str(), id);
        let found = record::find::<EventRecord>(self.store.as_ref(), &key).await?;
        Ok(found.map(|(EventRecord { event, intended }, _)| Posted { event, unconfirmed: intended }))
    }

    /// Takes an event out of a queue: nobody has to be told of it any more.
    pub async fn unpost(&self, queue: &QueueName, id: Uuid) -> Result<()> {
        Ok(self.store.delete(&layout::event(queue.as_str(), id)).await?)
    }

    /// Whether what an event tells is so: a deletion that nobody has confirmed may be under way or have failed. One of what
    /// was pushed again meanwhile looks as if it had not happened.
    pub async fn has_happened(&self, event: &Event) -> Result<bool> {
        match (event.change, event.tags.as_slice(), &event.digest) {
            (Change::TagDeleted, [tag, ..], _) => match self.find_tag(&event.repository, tag).await {
                Ok(found) => Ok(found.is_none()),
                // What is damaged is there.
                Err(Error::Record { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            (Change::ManifestDeleted, _, Some(digest)) => {
                Ok(!self.has_manifest(&event.repository, digest).await?)
            }
            _ => Ok(true),
        }
    }

    /// Deletes events of which nobody was told for longer than anybody would try.
    pub(super) async fn forget_events(&self, now: u64) -> Result<()> {
        let mut entries = self.store.list(&layout::outbox(), None);
        while let Some(entry) = entries.try_next().await? {
            let written = layout::id(&entry.key).and_then(written_at);
            if written.is_some_and(|written| written.saturating_add(milliseconds(LONGEST_WAIT)) < now) {
                tracing::warn!(key = %entry.key, "an event is given up that nobody has delivered for a month");
                self.store.delete(&entry.key).await?;
            }
        }
        Ok(())
    }
}

/// When an event with this id was written, in milliseconds since 1970, by the clock of who did; `None`: it is none of ours.
#[must_use]
pub fn written_at(id: Uuid) -> Option<u64> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanoseconds / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::now;

    #[test]
    fn an_event_reads_as_this_text() {
        let event = Event {
            change: Change::TagDeleted,
            repository: "disks/noble".parse().unwrap(),
            tags: vec!["v1".parse().unwrap()],
            digest: None,
            media_type: None,
            size: Some(7),
            user: Some("alice".to_owned()),
            reason: None,
            request: None,
        };
        let text = r#"{"version":1,"change":"tagDeleted","repository":"disks/noble","tags":["v1"],"size":7,"user":"alice","intended":true}"#;
        assert_eq!(record::encode(&EventRecord { event: event.clone(), intended: true }), text);
        let key = layout::event("ci", Uuid::nil());
        let found: EventRecord = record::decode(&key, text.as_bytes()).unwrap();
        assert_eq!((found.event, found.intended), (event, true));
    }

    #[test]
    fn names_of_queues_are_plain() {
        for name in ["ci", "a", "7-x", &"a".repeat(63)] {
            assert_eq!(name.parse::<QueueName>().unwrap().as_str(), name);
        }
        for name in ["", "-a", "A", "a/b", "a.b", "ü", "a b", &"a".repeat(64)] {
            assert!(name.parse::<QueueName>().is_err(), "{name}");
        }
    }

    #[test]
    fn an_id_tells_when_it_was_made() {
        let (before, id, after) = (now(), Uuid::now_v7(), now());
        assert!((before..=after).contains(&written_at(id).unwrap()));
        assert_eq!(written_at(Uuid::new_v4()), None);
    }
}
