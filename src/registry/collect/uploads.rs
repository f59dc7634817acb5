//! Uploads that nobody goes on with.

use futures::TryStreamExt as _;
use storage_backends::Entry;

use super::{Run, Step};
use crate::registry::record::{Ending, SessionRecord};
use crate::registry::session::{Session, SessionId};
use crate::registry::{Error, Registry, Result, layout, record};

impl Registry {
    /// Ends uploads that nobody went on with for long.
    pub(super) async fn collect_uploads(&self, run: Run) -> Result<Step> {
        let run = Run { grace: self.rules.abandoned, ..run };
        let mut step = Step::default();
        let entries: Vec<Entry> = self.store.list(&layout::sessions(), None).try_collect().await?;
        for entry in entries.iter().filter(|entry| !run.is_young(entry.modified)) {
            let Some((id, is_session)) = layout::session_of(&entry.key) else { continue };
            if !is_session {
                // The extents of an upload go with it; those of one that is gone stayed behind.
                let is_left = |other: &&Entry| layout::session_of(&other.key) == Some((id, true));
                if !run.only_look && entries.iter().find(is_left).is_none() {
                    self.store.delete(&entry.key).await?;
                }
                continue;
            }
            let found = record::find::<SessionRecord>(self.store.as_ref(), &entry.key).await;
            let Some((found, _)) = record::unless_damaged(found)? else { continue };
            if run.only_look || self.end_abandoned(SessionId::of(id), &found).await? {
                step.deleted.add(found.length);
            }
        }
        Ok(step)
    }

    /// Ends an upload, unless somebody just goes on with it.
    async fn end_abandoned(&self, id: SessionId, found: &SessionRecord) -> Result<bool> {
        let store = self.store.as_ref();
        let mut session = match Session::load(store, &found.repository, id).await {
            Ok(session) => session,
            // It was to be discarded; its data is nobody's.
            Err(Error::SessionUnknown { .. }) if found.ending == Some(Ending::Discarding) => {
                store.delete(&layout::session(id.uuid())).await?;
                return Ok(true);
            }
            Err(Error::SessionUnknown { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let ended = match &session.record.ending {
            // Whoever was to publish it is gone. Its data is deleted unless the blob has it.
            Some(Ending::Finishing(_)) => match session.discard(store).await {
                Ok(()) => session.remove(store).await,
                Err(error) => Err(error),
            },
            _ => self.discard(&mut session).await,
        };
        match ended {
            Ok(()) => Ok(true),
            Err(Error::OutOfOrder { .. } | Error::SessionUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
