//! Structural schemas of custom resources.
//!
//! A schema is compiled once, when its resource is registered: regular expressions, CEL rules and the shape of lists
//! are then ready, and a schema that this server could not enforce is refused at once rather than at the first write.
//! An object passes through in the API server's order: [`Schema::prune`], [`Schema::apply_defaults`],
//! [`Schema::validate`].

mod cause;
mod cel_value;
mod checks;
mod compile;
mod default;
mod format;
mod lists;
mod node;
mod pattern;
mod prune;
mod quantity;
mod rules;
mod validate;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use node::{Kind, ListKind, Node, OBJECT_META};

/// A compiled structural schema; cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    /// The schema as written: what objects must fulfil.
    declared: Node,
    /// The same with the API server's own `metadata`, `apiVersion` and `kind`: what objects look like.
    shape: Node,
}

/// Why a schema cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SchemaError {
    /// Where in the schema, e.g. `properties.spec.properties.size`.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// One violation, as in `metav1.StatusCause`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The machine-readable reason.
    pub reason: CauseReason,
    /// The field's path, e.g. `spec.dataSource.type`; `<nil>` for the object itself, as kube-apiserver prints it.
    pub field: String,
    /// The sentence without the field, e.g. `Required value`.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// `metav1.CauseType` values of field validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CauseReason {
    /// A value of the right type that is not allowed, or a failed rule.
    FieldValueInvalid,
    /// A missing field.
    FieldValueRequired,
    /// A value outside an enumeration.
    FieldValueNotSupported,
    /// A value of the wrong type or format.
    FieldValueTypeInvalid,
    /// A string that is too long.
    FieldValueTooLong,
    /// A list or map with too many entries.
    FieldValueTooMany,
    /// A list item that is there already.
    FieldValueDuplicate,
    /// A field that may not be set.
    FieldValueForbidden,
}

impl CauseReason {
    /// The wire value, e.g. `FieldValueInvalid`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FieldValueInvalid => "FieldValueInvalid",
            Self::FieldValueRequired => "FieldValueRequired",
            Self::FieldValueNotSupported => "FieldValueNotSupported",
            Self::FieldValueTypeInvalid => "FieldValueTypeInvalid",
            Self::FieldValueTooLong => "FieldValueTooLong",
            Self::FieldValueTooMany => "FieldValueTooMany",
            Self::FieldValueDuplicate => "FieldValueDuplicate",
            Self::FieldValueForbidden => "FieldValueForbidden",
        }
    }
}

impl Schema {
    /// Compiles an `openAPIV3Schema`.
    ///
    /// # Errors
    /// When the schema is not structural, uses what is not supported here, or a rule does not compile.
    pub fn compile(open_api_v3_schema: &Value) -> Result<Self, SchemaError> {
        let declared = compile::root(open_api_v3_schema)?;
        let mut shape = declared.clone();
        for key in ["apiVersion", "kind"] {
            shape.properties.insert(key.to_owned(), Arc::new(Node::of_kind(Kind::String)));
        }
        shape.properties.insert("metadata".to_owned(), OBJECT_META.clone());
        Ok(Self(Arc::new(Compiled { declared, shape })))
    }

    /// Removes what the schema does not know and returns the removed paths, e.g. `spec.dataSource.httpp`.
    ///
    /// `apiVersion`, `kind` and the fields of `ObjectMeta` are always known, and so is everything below
    /// `x-kubernetes-preserve-unknown-fields`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut removed = Vec::new();
        prune::prune(&self.0.shape, object, "", &mut removed);
        removed
    }

    /// Fills in defaults, also for a `null` that the schema does not allow.
    pub fn apply_defaults(&self, object: &mut Value) {
        default::apply_defaults(&self.0.declared, object);
    }

    /// Every violation of the schema and of its CEL rules; none when the object may be stored.
    ///
    /// With `old`, transition rules run too, and what was already wrong and has not changed is tolerated (validation
    /// ratcheting). Rules are only run on an object whose fields have their declared types.
    #[must_use]
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        validate::validate(&self.0.declared, object, old, "", &mut causes);
        lists::check(&self.0.declared, object, old, "", &mut causes);
        if causes.iter().any(Cause::blocks_rules) {
            if self.0.declared.has_rules() {
                causes.push(Cause::rules_skipped());
            }
            return causes;
        }
        rules::check(&self.0.declared, object, old, &mut causes);
        causes
    }

    /// The root of the shape, for field ownership.
    pub(crate) fn shape(&self) -> &Node {
        &self.0.shape
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Schema").finish_non_exhaustive()
    }
}

fn child_path(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests;
