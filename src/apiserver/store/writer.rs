//! The one thread that writes.
//!
//! It takes the writes that wait, runs them one after the other (so that a patch reads and writes as one step), and
//! commits them together: a disk that syncs in five milliseconds gives two hundred commits a second, however many
//! writes each has. Nobody sees a write, nor hears that it succeeded, before it is on the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::database::Database;
use super::transaction::Transaction;
use super::{Change, Key, Shared, Upkeep, WriteError};

/// Writes in one commit at most.
const BATCH: usize = 256;

/// A write: it changes what it wants and leaves something to call when that is decided.
pub(super) type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Reply + Send>;
pub(super) type Reply = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) database: Database,
    pub(super) upkeep: Box<dyn Upkeep>,
    /// How often upkeep runs when nothing asks for it.
    pub(super) interval: Duration,
}

impl Writer {
    /// Runs until nobody can send any more.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let changes = match jobs.recv_timeout(self.interval) {
                Ok(first) => self.commit(std::iter::once(first).chain(jobs.try_iter().take(BATCH - 1))),
                Err(RecvTimeoutError::Timeout) => {
                    self.keep_up(true, &[]);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.keep_up(false, &changes);
        }
    }

    /// Runs the upkeep until it finds nothing more to do: what it deletes may own something itself.
    pub(super) fn keep_up(&mut self, always: bool, changes: &[Arc<Change>]) {
        let mut wanted = always || self.upkeep.wanted(changes);
        while wanted {
            let Self { shared, database, upkeep, .. } = self;
            let changes = commit(shared, database, |transaction| {
                let mark = transaction.mark();
                if catch_unwind(AssertUnwindSafe(|| upkeep.run(transaction))).is_err() {
                    transaction.roll_back(mark);
                }
            });
            wanted = changes.is_ok_and(|changes| upkeep.wanted(&changes));
        }
    }

    fn commit(&mut self, jobs: impl Iterator<Item = Job>) -> Vec<Arc<Change>> {
        let mut replies: Vec<Reply> = Vec::new();
        let committed = commit(&self.shared, &mut self.database, |transaction| {
            for job in jobs {
                let mark = transaction.mark();
                // A bug in one write must not end the thread that all others need. Its caller sees that the
                // reply never comes.
                match catch_unwind(AssertUnwindSafe(|| job(transaction))) {
                    Ok(reply) => replies.push(reply),
                    Err(_) => transaction.roll_back(mark),
                }
            }
        });
        for reply in replies {
            reply(committed.as_ref().map(|_| ()).map_err(Clone::clone));
        }
        committed.unwrap_or_default()
    }
}

/// One commit: on the disk first, then for everybody to see.
fn commit(
    shared: &Shared,
    database: &mut Database,
    write: impl FnOnce(&mut Transaction<'_>),
) -> Result<Vec<Arc<Change>>, WriteError> {
    let pending = {
        let state = shared.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = Transaction::new(&state);
        write(&mut transaction);
        transaction.into_pending()
    };
    let kept = |key: &Key| shared.state.read().unwrap_or_else(PoisonError::into_inner).get(key);
    database.commit(&pending, kept).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "failed to write to the database");
        WriteError::Database(Arc::new(error))
    })?;
    let changes: Vec<_> = pending.into_iter().map(|pending| Arc::new(pending.change)).collect();
    if let Some(last) = changes.last() {
        let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            state.publish(Arc::clone(change));
        }
        drop(state);
        shared.version.send_replace(last.version);
    }
    Ok(changes)
}
