//! [`Listener`]s: who wants to hear of which changes. Each has a queue in the outbox, which somebody else delivers.
//!
//! Whoever changes a manifest or a tag says so here, a client's request and a rule of retention alike. Without a listener who wants to
//! hear of it, that costs nothing.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use super::event::{Change, Event};
use super::outbox::QueueName;
use super::retention::Repositories;
use super::{Registry, Result};
use crate::oci::RepositoryName;

/// Somebody who wants to hear of changes.
#[derive(Debug)]
pub struct Listener {
    /// Where the events are put.
    pub queue: QueueName,
    /// Of which changes.
    pub changes: Vec<Change>,
    /// Where they happen.
    pub repositories: Repositories,
    /// Told when there is an event in the queue.
    pub wake: Arc<Notify>,
}

/// All of a registry.
#[derive(Debug, Default)]
pub(super) struct Listeners(RwLock<Arc<[Listener]>>);

impl Listener {
    fn wants(&self, change: Change, repository: &RepositoryName) -> bool {
        self.changes.contains(&change) && self.repositories.has(repository)
    }
}

impl Listeners {
    fn all(&self) -> Arc<[Listener]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The queues of those who want to hear of an event.
    fn queues(&self, event: &Event) -> Vec<QueueName> {
        let listeners = self.all();
        let wanting = listeners.iter().filter(|listener| listener.wants(event.change, &event.repository));
        wanting.map(|listener| listener.queue.clone()).collect()
    }

    fn wake(&self, queues: &[QueueName]) {
        for listener in self.all().iter().filter(|listener| queues.contains(&listener.queue)) {
            listener.wake.notify_one();
        }
    }
}

impl Registry {
    /// From now on these are told of changes, and nobody else.
    pub fn set_listeners(&self, listeners: Vec<Listener>) {
        *self.listeners.0.write().unwrap_or_else(PoisonError::into_inner) = listeners.into();
    }

    /// Whether anybody wants to hear of such a change. If nobody does, nothing has to be found out about it.
    #[must_use]
    pub fn is_wanted(&self, change: Change, repository: &RepositoryName) -> bool {
        self.listeners.all().iter().any(|listener| listener.wants(change, repository))
    }

    /// Something has happened. When this returns, those who want to hear of it will; after an error nobody may be told that it
    /// has happened, and it is to be done again.
    pub async fn happened(&self, event: Event) -> Result<()> {
        let queues = self.listeners.queues(&event);
        if queues.is_empty() {
            return Ok(());
        }
        self.post(&queues, event).await?;
        self.listeners.wake(&queues);
        Ok(())
    }

    /// Deletes what `event` says is deleted, by `deletion`, which says whether it did and nobody else. If it did, those who want to hear
    /// of it will when this returns. After an error they will too if it has happened nevertheless: who repeats it finds nothing to
    /// delete.
    pub async fn deleting(&self, event: Event, deletion: impl Future<Output = Result<bool>>) -> Result<bool> {
        let queues = self.listeners.queues(&event);
        if queues.is_empty() {
            return deletion.await;
        }
        let intent = self.intend(&queues, event).await?;
        // After an error, whether it has happened is seen when it is looked at.
        if deletion.await? {
            self.confirm(intent).await?;
            self.listeners.wake(&queues);
            return Ok(true);
        }
        // Somebody else was faster. If it stays, they are told of what is so.
        if let Err(error) = self.retract(intent).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "an event cannot be taken back");
        }
        Ok(false)
    }

    /// The same for what nobody waits for: what has gone counts as gone, also if that could not be confirmed. It will be told, since it
    /// is seen to be gone.
    pub(super) async fn deleting_unasked(
        &self,
        event: Event,
        deletion: impl Future<Output = Result<bool>>,
    ) -> Result<bool> {
        let mut is_gone = false;
        let told = self
            .deleting(event, async {
                is_gone = deletion.await?;
                Ok(is_gone)
            })
            .await;
        match told {
            Err(error) if is_gone => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an event is not confirmed");
                Ok(true)
            }
            told => told,
        }
    }
}
