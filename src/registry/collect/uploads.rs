//! Uploads that nobody goes on with.

use std::collections::HashSet;

use futures::TryStreamExt as _;
use storage_backends::Entry;
use uuid::Uuid;

use super::{Run, Step};
use crate::registry::record::{Ending, SessionRecord, Stored};
use crate::registry::session::Session;
use crate::registry::{Error, Registry, Result, layout, record};

impl Registry {
    /// Ends uploads that nobody went on with for long.
    pub(super) async fn collect_uploads(&self, run: Run) -> Result<Step> {
        let run = Run { grace: self.rules.abandoned, ..run };
        let mut step = Step::default();
        let entries: Vec<Entry> = self.store.list(&layout::sessions(), None).try_collect().await?;
        let there = entries.iter().filter(|entry| !record::is_tombstone(entry.size));
        let sessions: HashSet<Uuid> =
            there.filter_map(|entry| layout::session_of(&entry.key)).filter_map(itself).collect();
        for entry in entries.iter().filter(|entry| !run.is_young(entry.modified)) {
            let Some((id, is_session)) = layout::session_of(&entry.key) else { continue };
            if !is_session {
                // The extents of an upload go with it; those of one that is gone stayed behind.
                if !run.only_look && !sessions.contains(&id) {
                    self.store.delete(&entry.key).await?;
                }
                continue;
            }
            if record::is_tombstone(entry.size) {
                // Its id was not used for twice that long. Whoever begins just now has to begin once more.
                if !run.only_look {
                    self.store.delete(&entry.key).await?;
                }
                continue;
            }
            let found = record::find_stored::<SessionRecord>(self.store.as_ref(), &entry.key).await;
            let Some(Stored { record: found, version, written, .. }) = record::unless_damaged(found)? else {
                continue;
            };
            // It was gone on with since it was listed, or another one has its id.
            if written.is_some_and(|written| run.is_in_grace(written)) {
                continue;
            }
            let length = found.length;
            if run.only_look || self.end_abandoned(Session::found(id, found, version)).await? {
                step.deleted.add(length);
            }
        }
        Ok(step)
    }

    /// Ends an upload, unless somebody just goes on with it.
    async fn end_abandoned(&self, mut session: Session) -> Result<bool> {
        let store = self.store.as_ref();
        let ended = match &session.record.ending {
            // It was to be discarded, or has no data; what it names is nobody's.
            Some(Ending::Discarding | Ending::Closed) => Ok(()),
            // Whoever was to publish it is gone. Its data is deleted unless the blob has it.
            Some(Ending::Finishing(_)) => session.give_up(store).await,
            // As it was found, or not at all: whoever has written there since goes on with it.
            None => match session.give_up(store).await {
                Ok(()) => self.free_given_up(&session).await,
                Err(error) => Err(error),
            },
        };
        match ended {
            Ok(()) => session.remove_unchanged(store).await,
            Err(Error::OutOfOrder { .. } | Error::SessionUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The session that an object is, unless it is only extents of one.
fn itself((session, is_session): (Uuid, bool)) -> Option<Uuid> {
    is_session.then_some(session)
}
