//! The sentences that violations are told in, as in apimachinery's `field.Error`.

use crate::apimachinery::{Cause, CauseReason};
use serde_json::Value;

pub(super) fn invalid(field: &str, value: &Value, why: &str) -> Cause {
    cause(CauseReason::FieldValueInvalid, field, format!("Invalid value: {value}: {why}"))
}

pub(super) fn required(field: &str, why: &str) -> Cause {
    let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
    cause(CauseReason::FieldValueRequired, field, message)
}

pub(super) fn forbidden(field: &str, why: &str) -> Cause {
    cause(CauseReason::FieldValueForbidden, field, format!("Forbidden: {why}"))
}

pub(super) fn too_long(field: &str, limit: usize) -> Cause {
    cause(CauseReason::FieldValueTooLong, field, format!("Too long: may not be more than {limit} bytes"))
}

pub(super) fn not_supported(field: &str, value: &str, supported: &[&str]) -> Cause {
    let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
    let message = format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
    cause(CauseReason::FieldValueNotSupported, field, message)
}

fn cause(reason: CauseReason, field: &str, message: String) -> Cause {
    Cause { reason, field: field.to_owned(), message }
}
