//! The constraints on a value that do not depend on its children: numbers, strings, lengths, enumerations.

use serde_json::{Number, Value};

use super::node::{Kind, Node};
use super::pattern::Pattern;
use super::{Cause, format};

/// The value validations of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    pub enumeration: Option<Vec<Value>>,
    pub maximum: Option<Bound>,
    pub minimum: Option<Bound>,
    pub multiple_of: Option<Number>,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub format: Option<String>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub required: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub limit: Number,
    pub exclusive: bool,
}

/// Checks that the value has the node's type.
pub(super) fn check_type(node: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(kind) = node.kind else { return };
    let found = type_name(value);
    if found == "null" {
        if !node.nullable {
            causes.push(wrong_type(path, kind.name(), found));
        }
        return;
    }
    let integral = matches!(value, Value::Number(number) if is_integral(number));
    let fits = match kind {
        Kind::Integer => integral,
        Kind::Number => value.is_number(),
        Kind::IntOrString => integral || value.is_string(),
        _ => kind.name() == found,
    };
    if fits {
        return;
    }
    match &node.checks.format {
        // kube-apiserver names the format here, and has no word for what it found.
        Some(format) if !value.is_string() && !value.is_array() => {
            let found = if value.is_number() { "double" } else { "" };
            causes.push(wrong_type(path, format, found));
        }
        _ => causes.push(wrong_type(path, kind.name(), found)),
    }
}

fn wrong_type(path: &str, wanted: &str, found: &str) -> Cause {
    let found = Value::from(found);
    Cause::type_invalid(path, &found, &format!("{path} in body must be of type {wanted}: {found}"))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// JSON has one number type: `1.0` is an integer to the API server.
pub(super) fn is_integral(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0 && float.abs() < 9.0e15)
}

/// Checks the value itself, whatever its type: only the constraints that apply to that type count.
pub(super) fn check_value(checks: &Checks, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::String(text) => check_string(checks, text, value, path, causes),
        Value::Number(number) => check_number(checks, number, value, path, causes),
        _ => {}
    }
    let allowed = checks.enumeration.as_ref();
    if let Some(allowed) = allowed.filter(|allowed| !allowed.iter().any(|one| same(one, value))) {
        causes.push(Cause::not_supported(path, value, allowed));
    }
}

/// Checks the number of items of a list; false when there are too many to look at each.
pub(super) fn check_items(checks: &Checks, count: usize, path: &str, causes: &mut Vec<Cause>) -> bool {
    if let Some(limit) = checks.min_items.filter(|limit| below(count, *limit)) {
        let detail = format!("{path} in body should have at least {limit} items");
        causes.push(Cause::invalid(path, &count.into(), &detail));
    }
    match checks.max_items.filter(|limit| above(count, *limit)) {
        Some(limit) => causes.push(Cause::too_many(path, count, limit)),
        None => return true,
    }
    false
}

/// Checks the number of fields of an object; false when its fields are not to be looked at.
pub(super) fn check_properties(checks: &Checks, count: usize, path: &str, causes: &mut Vec<Cause>) -> bool {
    if let Some(limit) = checks.min_properties.filter(|limit| below(count, *limit)) {
        let detail = format!("{path} in body should have at least {limit} properties");
        causes.push(Cause::invalid(path, &count.into(), &detail));
        return false;
    }
    if let Some(limit) = checks.max_properties.filter(|limit| above(count, *limit)) {
        causes.push(Cause::too_many(path, count, limit));
        return false;
    }
    true
}

fn check_string(checks: &Checks, text: &str, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count();
    if let Some(limit) = checks.max_length.filter(|limit| above(length, *limit)) {
        causes.push(Cause::too_long(path, limit));
    } else if let Some(limit) = checks.min_length.filter(|limit| below(length, *limit)) {
        let detail = format!("{path} in body should be at least {limit} chars long");
        causes.push(Cause::invalid(path, value, &detail));
    } else if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        causes.push(Cause::invalid(path, value, &format!("{path} in body should match '{pattern}'")));
    }
    if let Some(name) = checks.format.as_ref().filter(|name| !format::fits(name, text)) {
        let detail = format!("{path} in body must be of type {name}: {}", super::cause::quoted(text));
        causes.push(Cause::type_invalid(path, value, &detail));
    }
}

fn check_number(checks: &Checks, number: &Number, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(factor) = checks.multiple_of.as_ref().filter(|factor| !is_multiple(number, factor)) {
        causes.push(Cause::invalid(path, value, &format!("{path} in body should be a multiple of {factor}")));
    }
    if let Some(Bound { limit, exclusive }) = &checks.maximum {
        let ordering = compare(number, limit);
        if ordering.is_none_or(std::cmp::Ordering::is_gt)
            || *exclusive && ordering.is_some_and(std::cmp::Ordering::is_eq)
        {
            let relation = if *exclusive { "less than" } else { "less than or equal to" };
            causes.push(Cause::invalid(path, value, &format!("{path} in body should be {relation} {limit}")));
        }
    }
    if let Some(Bound { limit, exclusive }) = &checks.minimum {
        let ordering = compare(number, limit);
        if ordering.is_none_or(std::cmp::Ordering::is_lt)
            || *exclusive && ordering.is_some_and(std::cmp::Ordering::is_eq)
        {
            let relation = if *exclusive { "greater than" } else { "greater than or equal to" };
            causes.push(Cause::invalid(path, value, &format!("{path} in body should be {relation} {limit}")));
        }
    }
}

fn below(count: usize, limit: u64) -> bool {
    u64::try_from(count).is_ok_and(|count| count < limit)
}

fn above(count: usize, limit: u64) -> bool {
    u64::try_from(count).map_or(true, |count| count > limit)
}

fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// Integers are compared as integers: a float would take neighbours beyond 2^53 for equal.
fn compare(left: &Number, right: &Number) -> Option<std::cmp::Ordering> {
    match (integer(left), integer(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

fn is_multiple(number: &Number, factor: &Number) -> bool {
    match (integer(number), integer(factor)) {
        (Some(number), Some(factor)) => factor != 0 && number % factor == 0,
        _ => match (number.as_f64(), factor.as_f64()) {
            (Some(number), Some(factor)) => (number / factor).fract() == 0.0,
            _ => false,
        },
    }
}

fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            compare(left, right).is_some_and(std::cmp::Ordering::is_eq)
        }
        _ => left == right,
    }
}
