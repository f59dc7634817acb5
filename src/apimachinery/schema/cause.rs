//! The violations of a schema, in the API server's words.
//!
//! One constructor for each kind of violation, so that the sentences are in one place and a reader can compare them
//! with kube-apiserver's `field.Error`.

use serde_json::Value;

use super::Cause;
use super::CauseReason::FieldValueTypeInvalid;
use super::CauseReason::{self, FieldValueDuplicate, FieldValueForbidden, FieldValueInvalid};
use super::CauseReason::{FieldValueNotSupported, FieldValueRequired, FieldValueTooLong, FieldValueTooMany};

/// What kube-apiserver prints for the path of the object itself.
pub(super) const ROOT: &str = "<nil>";

impl Cause {
    fn new(reason: CauseReason, path: &str, message: String) -> Self {
        let field = if path.is_empty() { ROOT } else { path };
        Self { reason, field: field.to_owned(), message }
    }

    pub(super) fn invalid(path: &str, value: &Value, detail: &str) -> Self {
        Self::new(FieldValueInvalid, path, format!("Invalid value: {}: {detail}", shown(value)))
    }

    pub(super) fn type_invalid(path: &str, value: &Value, detail: &str) -> Self {
        Self::new(FieldValueTypeInvalid, path, format!("Invalid value: {}: {detail}", shown(value)))
    }

    pub(super) fn required(path: &str, detail: &str) -> Self {
        Self::new(FieldValueRequired, path, with_detail("Required value", detail))
    }

    pub(super) fn forbidden(path: &str, detail: &str) -> Self {
        Self::new(FieldValueForbidden, path, with_detail("Forbidden", detail))
    }

    pub(super) fn duplicate(path: &str, value: &Value) -> Self {
        Self::new(FieldValueDuplicate, path, format!("Duplicate value: {}", shown(value)))
    }

    pub(super) fn not_supported(path: &str, value: &Value, supported: &[Value]) -> Self {
        let supported: Vec<_> = supported
            .iter()
            .map(|one| quoted(one.as_str().map_or_else(|| one.to_string(), str::to_owned).as_str()))
            .collect();
        let message =
            format!("Unsupported value: {}: supported values: {}", shown(value), supported.join(", "));
        Self::new(FieldValueNotSupported, path, message)
    }

    pub(super) fn too_long(path: &str, limit: u64) -> Self {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        Self::new(FieldValueTooLong, path, format!("Too long: may not be more than {limit} {unit}"))
    }

    pub(super) fn too_many(path: &str, count: usize, limit: u64) -> Self {
        let unit = if limit == 1 { "item" } else { "items" };
        Self::new(FieldValueTooMany, path, format!("Too many: {count}: must have at most {limit} {unit}"))
    }

    pub(super) fn rules_skipped() -> Self {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing \
                      errors to complete validation";
        Self::invalid("", &Value::Null, detail)
    }

    /// Whether CEL rules are skipped because of this violation: their types could not be relied upon.
    pub(super) fn blocks_rules(&self) -> bool {
        matches!(
            self.reason,
            FieldValueNotSupported
                | FieldValueRequired
                | FieldValueTooLong
                | FieldValueTooMany
                | FieldValueTypeInvalid
        )
    }
}

fn with_detail(title: &str, detail: &str) -> String {
    if detail.is_empty() { title.to_owned() } else { format!("{title}: {detail}") }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        // Go escapes these in JSON, so that the text can stand in HTML.
        other => other.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"),
    }
}

/// A string as Go's `%q` prints it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 || u32::from(control) == 0x7f => {
                out.extend(format!("\\x{:02x}", u32::from(control)).chars());
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
