//! The fields that an apply would take from other managers.

use std::fmt;

use super::field_set::FieldSet;
use super::managers::{Operation, Owner};

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner's name.
    pub manager: String,
    /// The operation the owner used: `Apply` or `Update`.
    pub operation: String,
    /// The subresource of the owner, if any.
    pub subresource: Option<String>,
    /// The group version the owner used; empty for an applier.
    pub api_version: String,
    /// The field, e.g. `.spec.storage`.
    pub field: String,
}

impl Conflict {
    /// The sentence of the whole answer, e.g. `Apply failed with 1 conflict: conflict with "kubectl" using v1: .data`.
    #[must_use]
    pub fn summary(conflicts: &[Self]) -> String {
        if let [conflict] = conflicts {
            return format!("Apply failed with 1 conflict: {conflict}");
        }
        let mut lines = Vec::new();
        let mut last = None;
        for conflict in conflicts {
            let owner = conflict.owner();
            if last.as_ref() != Some(&owner) {
                lines.push(format!("conflicts with {owner}:"));
                last = Some(owner);
            }
            lines.push(format!("- {}", conflict.field));
        }
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    }

    /// The message of this conflict's cause in a Status: `conflict with "kubectl" using v1`. The cause's type is
    /// `FieldManagerConflict`, its field [`Conflict::field`].
    #[must_use]
    pub fn cause_message(&self) -> String {
        format!("conflict with {}", self.owner())
    }

    pub(super) fn list(disputed: &[(Owner, FieldSet)]) -> Vec<Self> {
        let mut conflicts: Vec<Self> = disputed
            .iter()
            .flat_map(|(owner, fields)| {
                fields.paths().into_iter().map(|field| Self {
                    manager: owner.name.clone(),
                    operation: owner.operation.as_str().to_owned(),
                    subresource: Some(owner.subresource.clone()).filter(|name| !name.is_empty()),
                    api_version: owner.api_version.clone(),
                    field,
                })
            })
            .collect();
        conflicts.sort_by_key(Self::owner);
        conflicts
    }

    fn owner(&self) -> String {
        let subresource = self.subresource.as_ref().map(|name| format!(" with subresource {name:?}"));
        // An applier is known by its name; an updater also by the version it writes.
        let version =
            (self.operation == Operation::Update.as_str()).then(|| format!(" using {}", self.api_version));
        format!("{:?}{}{}", self.manager, subresource.unwrap_or_default(), version.unwrap_or_default())
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.cause_message(), self.field)
    }
}
