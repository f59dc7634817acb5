//! What a cluster's controllers would do: empty namespaces that go, collect objects whose owners have gone, forget old
//! events.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::builtin::{DEFAULT, EVENTS, NAMESPACES, event_is_expired, new_namespace};
use super::clock::{Clock, rfc3339};
use super::delete::delete_or_mark;
use super::metadata;
use super::scheme::Scheme;
use super::store::{Change, Key, Object, Range, Transaction, Upkeep};

#[derive(Debug)]
pub(super) struct Housekeeping {
    pub(super) scheme: Arc<Scheme>,
    pub(super) clock: Clock,
}

impl Upkeep for Housekeeping {
    /// Only what is deleted, or marked so, leaves something to do at once. The rest can wait for the next round.
    fn wanted(&self, changes: &[Arc<Change>]) -> bool {
        let marked = |object: &Object| metadata::is_terminating(&object.value);
        changes.iter().any(|change| change.deleted || marked(&change.object))
    }

    fn run(&mut self, transaction: &mut Transaction<'_>) {
        let now = self.clock.now();
        keep_default_namespace(transaction, now);
        forget_events(transaction, now);
        empty_namespaces(transaction, now);
        self.collect_dependents(transaction, now);
    }
}

impl Housekeeping {
    fn collect_dependents(&self, transaction: &mut Transaction<'_>, now: Timestamp) {
        for object in transaction.list(&Range::all()) {
            let references = metadata::of(&object.value).and_then(|metadata| metadata.get("ownerReferences"));
            let references = references.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let owned = !references.is_empty();
            if owned && references.iter().all(|owner| self.is_gone(transaction, &object, owner)) {
                delete_or_mark(transaction, &object, now);
            }
        }
    }

    /// Whether an owner is certainly not there. Of a kind that is not served here, nobody can tell.
    fn is_gone(&self, transaction: &Transaction<'_>, dependent: &Object, owner: &Value) -> bool {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        let Some(resource) = self.scheme.of_kind(text("apiVersion"), text("kind")) else { return false };
        let namespace = match (resource.namespaced, dependent.key.namespace()) {
            (true, "") => return false,
            (true, namespace) => namespace,
            (false, _) => "",
        };
        let found = transaction.get(&Key::new(&resource.storage, namespace, text("name")));
        found.is_none_or(|found| metadata::text(&found.value, "uid") != text("uid"))
    }
}

fn keep_default_namespace(transaction: &mut Transaction<'_>, now: Timestamp) {
    let key = Key::new(NAMESPACES, "", DEFAULT);
    if transaction.get(&key).is_none() {
        let mut namespace = new_namespace(DEFAULT);
        metadata::set(&mut namespace, "uid", json!(uuid::Uuid::new_v4().to_string()));
        metadata::set(&mut namespace, "creationTimestamp", json!(rfc3339(now)));
        transaction.put(key, namespace);
    }
}

fn forget_events(transaction: &mut Transaction<'_>, now: Timestamp) {
    for event in transaction.list(&Range::resource(EVENTS)) {
        if event_is_expired(&event.value, now) {
            transaction.remove(event.key.clone(), event.value.clone());
        }
    }
}

/// A namespace goes when nothing is in it any more and nobody holds it.
fn empty_namespaces(transaction: &mut Transaction<'_>, now: Timestamp) {
    let mut going = transaction.list(&Range::resource(NAMESPACES));
    going.retain(|namespace| metadata::is_terminating(&namespace.value));
    if going.is_empty() {
        return;
    }
    for namespace in going {
        let is_inside = |object: &Arc<Object>| object.key.namespace() == namespace.key.name();
        for object in transaction.list(&Range::all()).iter().filter(|object| is_inside(object)) {
            delete_or_mark(transaction, object, now);
        }
        let is_empty = !transaction.list(&Range::all()).iter().any(is_inside);
        if is_empty && metadata::finalizers(&namespace.value).next().is_none() {
            transaction.remove(namespace.key.clone(), namespace.value.clone());
        }
    }
}
