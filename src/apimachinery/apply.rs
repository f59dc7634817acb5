//! Server-side apply: who owns which field, and what happens when owners disagree.
//!
//! The rules are those of structured-merge-diff, which kube-apiserver runs: an applied configuration is merged over
//! the live object along the schema, what its manager applied before and has now left out is removed unless another
//! manager owns it, and a field that another manager owns with another value is a conflict. Ownership is kept in
//! `metadata.managedFields` in the `FieldsV1` format. One schema version is assumed, so that no conversion is needed.
//!
//! Fields an endpoint does not write are the caller's to remove first: `status` from what is applied to the main
//! endpoint, everything but `status` from what is applied to `/status`.

mod compare;
mod conflict;
mod field_set;
mod last_applied;
mod managers;
mod merge;
mod owned;
mod path_element;
mod remove;
mod shape;

use serde_json::{Value, json};

use self::compare::Comparison;
pub use self::conflict::Conflict;
use self::field_set::FieldSet;
use self::managers::{Managers, Operation, Owner, Ownership};
use crate::apimachinery::schema::{Node, Schema};

/// Who changes an object.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The field manager's name.
    pub name: &'a str,
    /// The subresource written through, e.g. `status`.
    pub subresource: Option<&'a str>,
    /// The group version of the request.
    pub api_version: &'a str,
    /// The time of the request, RFC 3339 with seconds.
    pub now: &'a str,
}

impl Manager<'_> {
    fn owner(&self, operation: Operation) -> Owner {
        Owner {
            operation,
            name: self.name.to_owned(),
            subresource: self.subresource.unwrap_or_default().to_owned(),
            // An applier is the same one across versions, so that its older fields can be pruned.
            api_version: if operation == Operation::Apply {
                String::new()
            } else {
                self.api_version.to_owned()
            },
        }
    }

    fn ownership(&self, fields: FieldSet) -> Ownership {
        Ownership { api_version: self.api_version.to_owned(), time: Some(self.now.to_owned()), fields }
    }
}

/// Owns what a live object without `managedFields` held before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The object after `applied` is applied over `live`, with `managedFields` brought up to date.
///
/// `applied` must not set `metadata.managedFields` (answer 400); it is ignored here. Applying the same again changes
/// nothing, not even the time of the entry.
///
/// # Errors
/// The conflicts, when other managers own fields with other values and `force` is not set. A configuration that
/// `kubectl` applied client-side before does not conflict with itself.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let root = schema.shape();
    let mut configuration = applied.clone();
    managers::take(&mut configuration);
    let mut before = live.cloned().unwrap_or_else(|| json!({}));
    let mut managers = Managers::decode(managers::take(&mut before).as_ref()).unwrap_or_default();
    if live.is_some() && managers.is_empty() {
        let all = Comparison::of(root, &json!({}), &before).changed();
        let owner = Manager { name: BEFORE_FIRST_APPLY, subresource: None, ..*manager };
        managers.insert(owner.owner(Operation::Update), owner.ownership(all.difference(&system_fields())));
    }

    let attempt = Attempt { root, before: &before, configuration: &configuration, managers, manager };
    let mut outcome = attempt.run(force);
    if let (Err(disputed), last_applied::MANAGER) = (&mut outcome, manager.name) {
        let allowed = last_applied::undisputed(root, &before);
        for (_, fields) in disputed.iter_mut() {
            *fields = fields.difference(&allowed);
        }
        disputed.retain(|(_, fields)| !fields.is_empty());
        if disputed.is_empty() {
            outcome = attempt.run(true);
        }
    }
    let (mut object, managers) = outcome.map_err(|conflicts| Conflict::list(&conflicts))?;
    if manager.name == last_applied::MANAGER {
        last_applied::refresh(&mut object, &configuration);
    }
    managers.write(&mut object);
    Ok(object)
}

struct Attempt<'a> {
    root: &'a Node,
    before: &'a Value,
    configuration: &'a Value,
    managers: Managers,
    manager: &'a Manager<'a>,
}

type Disputed = Vec<(Owner, FieldSet)>;

impl Attempt<'_> {
    fn run(&self, force: bool) -> Result<(Value, Managers), Disputed> {
        let owner = self.manager.owner(Operation::Apply);
        let mut managers = self.managers.clone();
        let last = managers.get(&owner).cloned();
        let applied = owned::fields(self.root, self.configuration);
        managers.insert(owner.clone(), self.manager.ownership(applied.clone()));

        let merged = merge::merge(self.root, self.before, self.configuration);
        let object = match &last {
            Some(last) => prune(self.root, merged, &last.fields, &managers.all_fields()),
            None => merged,
        };
        let comparison = Comparison::of(self.root, self.before, &object);
        let disputed = managers.disputed(&comparison.changed(), &owner);
        if !force && !disputed.is_empty() {
            return Err(disputed);
        }
        managers.lose(&comparison, Some(&owner));

        let fields = applied.difference(&system_fields());
        let unchanged =
            last.filter(|last| last.fields == fields && object == *self.before).and_then(|last| last.time);
        let mut ownership = self.manager.ownership(fields);
        if let Some(time) = unchanged {
            ownership.time = Some(time);
        }
        managers.insert(owner, ownership);
        Ok((object, managers))
    }
}

/// Removes what the manager applied last and nobody owns now.
fn prune(root: &Node, merged: Value, last: &FieldSet, managed: &FieldSet) -> Value {
    if last.is_empty() {
        return merged;
    }
    let last = last.with_named_parents(root);
    let present = |object: &Value| owned::fields(root, object).with_named_parents(root);
    let all = present(&merged);
    let rest = present(&remove::remove(root, &merged, &last));
    let kept = rest.union(&managed.with_named_parents(root));
    let still_owned = remove::remove(root, &merged, &all.difference(&kept));
    remove::remove(root, &merged, &all.difference(&present(&still_owned)).intersection(&last))
}

/// Brings `new.metadata.managedFields` up to date after a create, update or patch by `manager`.
///
/// The manager owns what it has changed, others lose what was changed. `new` still has the `managedFields` of the
/// request: an empty or absent list keeps the live one (clients that do not know the field send none), `[{}]` resets
/// it, and a subresource cannot write it. An existing object without `managedFields` stays without.
pub fn track_update(schema: &Schema, old: Option<&Value>, new: &mut Value, manager: &Manager) {
    let root = schema.shape();
    let mut before = old.cloned().unwrap_or_else(|| json!({}));
    let live = managers::take(&mut before);
    let requested = managers::take(new).filter(|_| manager.subresource.is_none());
    let mut managers = if managers::is_reset(requested.as_ref()) {
        Managers::default()
    } else {
        Managers::decode(requested.as_ref())
            .filter(|requested| !requested.is_empty())
            .or_else(|| Managers::decode(live.as_ref()))
            .unwrap_or_default()
    };
    let exists = before.pointer("/metadata/uid").and_then(Value::as_str).is_some_and(|uid| !uid.is_empty());
    if managers.is_empty() && exists {
        return;
    }
    let comparison = Comparison::of(root, &before, new);
    let owner = manager.owner(Operation::Update);
    let previous = managers.get(&owner).map(|ownership| ownership.fields.clone()).unwrap_or_default();
    managers.lose(&comparison, None);
    let changed = comparison.changed().difference(&system_fields());
    if !changed.is_empty() {
        let kept = previous.difference(&comparison.removed);
        managers.insert(owner, manager.ownership(kept.union(&changed)));
    }
    managers.cap();
    managers.write(new);
}

/// Fields that identify the object or that the server sets: nobody owns them.
fn system_fields() -> FieldSet {
    let mut fields = FieldSet::default();
    for name in ["apiVersion", "kind", "metadata"] {
        fields.insert(&[path_element::PathElement::field(name)]);
    }
    let system = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    for name in system {
        fields
            .insert(&[path_element::PathElement::field("metadata"), path_element::PathElement::field(name)]);
    }
    fields
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
