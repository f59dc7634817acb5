//! `metadata.managedFields`: the owners of an object's fields.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Comparison;
use super::field_set::FieldSet;

/// Beyond this many managers that update, the oldest are merged: an object must not grow with each client that has
/// ever written it.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT_CHANGES: &str = "ancient-changes";

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What makes one entry differ from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub operation: Operation,
    pub name: String,
    pub subresource: String,
    /// Empty for appliers.
    pub api_version: String,
}

/// What an owner owns, and since when.
#[derive(Clone, Debug)]
pub(super) struct Ownership {
    pub api_version: String,
    pub time: Option<String>,
    pub fields: FieldSet,
}

/// All owners of an object's fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(BTreeMap<Owner, Ownership>);

/// Takes `metadata.managedFields` out of an object.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Whether the list is `[{}]`, by which a client asks to forget all owners.
pub(super) fn is_reset(list: Option<&Value>) -> bool {
    let entries = list.and_then(Value::as_array).map(Vec::as_slice);
    matches!(entries, Some([Value::Object(entry)]) if entry.is_empty())
}

impl Managers {
    /// Reads a list of entries; none when one of them is malformed.
    pub(super) fn decode(list: Option<&Value>) -> Option<Self> {
        let mut managers = Self::default();
        let Some(list) = list else { return Some(managers) };
        for entry in list.as_array()? {
            let text = |key: &str| match entry.get(key) {
                None | Some(Value::Null) => Some(String::new()),
                Some(value) => value.as_str().map(str::to_owned),
            };
            let operation = match text("operation")?.as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let api_version = text("apiVersion")?;
            let fields = FieldSet::from_json(entry.get("fieldsV1")?)?;
            let owner = Owner {
                operation,
                name: text("manager")?,
                subresource: text("subresource")?,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() },
            };
            let time = Some(text("time")?).filter(|time| !time.is_empty());
            let slot = managers.0.entry(owner).or_insert(Ownership {
                api_version,
                time,
                fields: FieldSet::default(),
            });
            slot.fields = slot.fields.union(&fields);
        }
        managers.0.retain(|_, ownership| !ownership.fields.is_empty());
        Some(managers)
    }

    /// Writes the list into an object, in the API server's order; no owners, no list.
    pub(super) fn write(self, object: &mut Value) {
        let mut entries: Vec<_> = self.0.into_iter().collect();
        entries.sort_by(|(left, left_ownership), (right, right_ownership)| {
            let rank = |owner: &Owner| (owner.name.clone(), owner.subresource.clone());
            left.operation
                .cmp(&right.operation)
                .then_with(|| left_ownership.time.cmp(&right_ownership.time))
                .then_with(|| rank(left).cmp(&rank(right)))
        });
        let entries: Vec<Value> =
            entries.into_iter().map(|(owner, ownership)| entry(owner, ownership)).collect();
        if entries.is_empty() {
            take(object);
        } else if let Value::Object(fields) = object {
            let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(metadata) = metadata {
                metadata.insert("managedFields".to_owned(), Value::Array(entries));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, owner: &Owner) -> Option<&Ownership> {
        self.0.get(owner)
    }

    /// Sets what `owner` owns; nothing at all removes it.
    pub(super) fn insert(&mut self, owner: Owner, ownership: Ownership) {
        if ownership.fields.is_empty() {
            self.0.remove(&owner);
        } else {
            self.0.insert(owner, ownership);
        }
    }

    /// Everything that anybody owns.
    pub(super) fn all_fields(&self) -> FieldSet {
        self.0.values().fold(FieldSet::default(), |all, ownership| all.union(&ownership.fields))
    }

    /// The owners other than `author` of the fields that `author` wants to change.
    pub(super) fn disputed(&self, changed: &FieldSet, author: &Owner) -> Vec<(Owner, FieldSet)> {
        let others = self.0.iter().filter(|(owner, _)| *owner != author);
        others
            .map(|(owner, ownership)| (owner.clone(), ownership.fields.intersection(changed)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect()
    }

    /// Takes what has changed from everyone but `author`.
    pub(super) fn lose(&mut self, comparison: &Comparison, author: Option<&Owner>) {
        let changed = comparison.changed();
        for (owner, ownership) in &mut self.0 {
            if Some(owner) != author {
                ownership.fields = ownership.fields.difference(&changed).difference(&comparison.removed);
            }
        }
        self.0.retain(|owner, ownership| Some(owner) == author || !ownership.fields.is_empty());
    }

    /// Merges the oldest managers that update into one per version while there are too many.
    pub(super) fn cap(&mut self) {
        let updaters = |managers: &BTreeMap<Owner, Ownership>| -> Vec<Owner> {
            managers.keys().filter(|owner| owner.operation == Operation::Update).cloned().collect()
        };
        let mut excess = updaters(&self.0).len().saturating_sub(MAX_UPDATE_MANAGERS);
        if excess == 0 {
            return;
        }
        let mut candidates = updaters(&self.0);
        candidates.retain(|owner| owner.name != ANCIENT_CHANGES);
        candidates
            .sort_by_key(|owner| Reverse(self.0.get(owner).and_then(|ownership| ownership.time.clone())));
        while excess > 0 {
            let Some(owner) = candidates.pop() else { return };
            let Some(old) = self.0.remove(&owner) else { continue };
            let bucket = Owner { name: ANCIENT_CHANGES.to_owned(), subresource: String::new(), ..owner };
            match self.0.get_mut(&bucket) {
                Some(ancient) => {
                    ancient.fields = ancient.fields.union(&old.fields);
                    ancient.time = ancient.time.take().max(old.time);
                    excess -= 1;
                }
                None => {
                    self.0.insert(bucket, old);
                }
            }
        }
    }
}

fn entry(owner: Owner, ownership: Ownership) -> Value {
    let mut entry = Map::new();
    entry.insert("manager".to_owned(), owner.name.into());
    entry.insert("operation".to_owned(), owner.operation.as_str().into());
    entry.insert("apiVersion".to_owned(), ownership.api_version.into());
    if let Some(time) = ownership.time {
        entry.insert("time".to_owned(), time.into());
    }
    entry.insert("fieldsType".to_owned(), "FieldsV1".into());
    entry.insert("fieldsV1".to_owned(), ownership.fields.to_json());
    if !owner.subresource.is_empty() {
        entry.insert("subresource".to_owned(), owner.subresource.into());
    }
    Value::Object(entry)
}
