//! A replica that crashes: what it was doing stops in the middle, at any call of the store, and another one takes its place.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use dvcr::registry::{Registry, Rules};
use storage_backends::Store;
use tokio::sync::watch;

/// One of several over a store.
pub(super) struct Replica {
    store: Arc<dyn Store>,
    rules: Rules,
    registry: RefCell<Arc<Registry>>,
    /// How often it has crashed.
    crashes: watch::Sender<u64>,
    /// Bytes that it found stored already, before it crashed the last time.
    known: Cell<u64>,
}

impl Replica {
    pub(super) fn new(store: Arc<dyn Store>, rules: Rules) -> Self {
        let registry = Arc::new(Registry::with_rules(Arc::clone(&store), rules));
        Self {
            store,
            rules,
            registry: RefCell::new(registry),
            crashes: watch::Sender::new(0),
            known: Cell::new(0),
        }
    }

    /// Forgets everything but what is stored. Whoever is waiting for an answer gets none.
    pub(super) fn crash(&self) {
        self.known.set(self.known());
        *self.registry.borrow_mut() = Arc::new(Registry::with_rules(Arc::clone(&self.store), self.rules));
        self.crashes.send_modify(|crashes| *crashes += 1);
    }

    /// The answer to a request; `None` if the replica crashed in the middle of it, so that nobody knows what it did.
    pub(super) async fn ask<T>(&self, request: impl AsyncFnOnce(&Registry) -> T) -> Option<T> {
        let registry = Arc::clone(&self.registry.borrow());
        let mut crashes = self.crashes.subscribe();
        tokio::select! {
            biased;
            _ = crashes.changed() => None,
            answer = request(&registry) => Some(answer),
        }
    }

    pub(super) fn crashes(&self) -> u64 {
        *self.crashes.borrow()
    }

    /// Bytes that were not stored again, since they were in chunks that it knew.
    pub(super) fn known(&self) -> u64 {
        self.known.get() + self.registry.borrow().tally().counts().known
    }
}
