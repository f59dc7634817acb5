//! CEL rules (`x-kubernetes-validations`).
//!
//! A rule is compiled with its schema and runs on every value of its node that is present. It sees `self`, and
//! `oldSelf` when the object is updated and the value can be identified in the old one. A rule that errors is a
//! violation: a rule that could not be evaluated has not been fulfilled.

use std::sync::{Arc, LazyLock};

use cel::common::types::CelOptional;
use cel::common::value::Val;
use cel::{Context, Env, ExecutionError, Program, Value as Cel, extensions};
use serde_json::Value;

use super::node::{Kind, Node};
use super::{Cause, CauseReason, cel_value, quantity, validate};

const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// The standard library, and what Kubernetes adds for strings and quantities.
static ENVIRONMENT: LazyLock<Result<Arc<Env>, String>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    environment.add_extension(extensions::strings).map_err(|error| error.to_string())?;
    environment.add_extension(quantity::extension).map_err(|error| error.to_string())?;
    Ok(Arc::new(environment))
});

/// A function that is missing from here would only fail when an object is written, so a rule that calls it is refused
/// when its schema is compiled.
const FUNCTIONS: [&str; 40] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bool",
    "bytes",
    "type",
    "dyn",
    "has",
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "map",
    "filter",
    "charAt",
    "indexOf",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "reverse",
    "format",
    "quote",
    "of",
    "ofNonZeroValue",
    "none",
    "hasValue",
    "value",
    "or",
    "orValue",
];

/// A compiled rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    program: Arc<Program>,
    message_program: Option<Arc<Program>>,
    /// The message, or else the rule's source: how errors name the rule.
    name: String,
    message: String,
    reason: CauseReason,
    field_path: String,
    uses_old: bool,
    optional_old: bool,
}

impl Rule {
    /// Compiles one entry of `x-kubernetes-validations`.
    pub(crate) fn compile(rule: &Value) -> Result<Self, String> {
        let text =
            |key: &str| rule.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let source = text("rule").ok_or("a rule has no expression")?;
        let program = compile(source)?;
        let message_program = text("messageExpression").map(compile).transpose()?;
        let reason = match text("reason") {
            None | Some("FieldValueInvalid") => CauseReason::FieldValueInvalid,
            Some("FieldValueForbidden") => CauseReason::FieldValueForbidden,
            Some("FieldValueRequired") => CauseReason::FieldValueRequired,
            Some("FieldValueDuplicate") => CauseReason::FieldValueDuplicate,
            Some(other) => return Err(format!("unsupported reason {other:?}")),
        };
        let field_path = text("fieldPath").map(field_path).transpose()?.unwrap_or_default();
        Ok(Self {
            uses_old: program.references().has_variable("oldSelf"),
            program: Arc::new(program),
            message_program: message_program.map(Arc::new),
            name: text("message").unwrap_or(source).to_owned(),
            message: text("message").map_or_else(|| format!("failed rule: {source}"), str::to_owned),
            reason,
            field_path,
            optional_old: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

fn compile(source: &str) -> Result<Program, String> {
    let environment = ENVIRONMENT.as_ref().map_err(Clone::clone)?;
    let program = environment.compile(source).map_err(|error| error.to_string())?;
    let references = program.references();
    let is_operator = |name: &str| !name.starts_with(|first: char| first.is_ascii_alphabetic());
    let is_known = |name: &str| FUNCTIONS.contains(&name) || quantity::FUNCTIONS.contains(&name);
    match references.functions().into_iter().find(|name| !is_operator(name) && !is_known(name)) {
        Some(function) => Err(format!("function {function} is not supported in {source:?}")),
        None => Ok(program),
    }
}

/// `.a['b']` as the path that a cause prints: `a.b`.
fn field_path(path: &str) -> Result<String, String> {
    let plain = path.replace("['", ".").replace("']", "");
    let names: Vec<_> = plain.split('.').filter(|name| !name.is_empty()).collect();
    if names.is_empty() || plain.contains(['[', ']']) {
        return Err(format!("fieldPath {path:?} names no field"));
    }
    Ok(names.join("."))
}

/// Runs the rules of the schema on the object.
pub(super) fn check(root: &Node, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Ok(environment) = ENVIRONMENT.as_ref() else { return };
    let unchanged = old == Some(object);
    if !root.rules.is_empty() && !object.is_null() {
        let old = old.map(|old| cel_value::root(root, old));
        Scope { environment, node: root, path: "", unchanged }.run(
            &cel_value::root(root, object),
            old.as_ref(),
            causes,
        );
    }
    validate::children(root, object, old, "", |node, value, old, path| {
        walk(environment, node, value, old, unchanged, &path, causes);
    });
}

fn walk(
    environment: &Arc<Env>,
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    parent_unchanged: bool,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    if value.is_null() {
        return;
    }
    let unchanged = old.map_or(parent_unchanged, |old| old == value);
    if !node.rules.is_empty() {
        let old = old.filter(|old| !old.is_null()).map(|old| cel_value::of(node, old));
        Scope { environment, node, path, unchanged }.run(&cel_value::of(node, value), old.as_ref(), causes);
    }
    validate::children(node, value, old, path, |node, value, old, path| {
        walk(environment, node, value, old, unchanged, &path, causes);
    });
}

struct Scope<'a> {
    environment: &'a Arc<Env>,
    node: &'a Node,
    path: &'a str,
    /// The value, or the nearest part of the object that can be identified in the old one, is as it was.
    unchanged: bool,
}

impl Scope<'_> {
    fn run(&self, value: &Cel, old: Option<&Cel>, causes: &mut Vec<Cause>) {
        let mut context = Context::with_env(Arc::clone(self.environment));
        context.add_variable_from_value("self", value.clone());
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", old.clone());
        }
        for rule in &self.node.rules {
            let outcome = if rule.optional_old {
                let mut context = Context::with_env(Arc::clone(self.environment));
                context.add_variable_from_value("self", value.clone());
                context.add_variable_as_val("oldSelf", Box::new(optional(old)));
                self.outcome(rule, &context)
            } else if rule.uses_old && old.is_none() {
                None
            } else {
                self.outcome(rule, &context)
            };
            causes.extend(outcome);
        }
    }

    fn outcome(&self, rule: &Rule, context: &Context) -> Option<Cause> {
        match rule.program.execute(context) {
            Ok(Cel::Bool(true)) => None,
            Err(error) => Some(self.invalid(self.path, &evaluation_error(&error, &rule.name))),
            // What was wrong before and has not changed is tolerated, unless the rule is about the change.
            Ok(_) if self.unchanged && !rule.uses_old => None,
            Ok(_) => {
                let path = match (self.path, rule.field_path.as_str()) {
                    (path, "") => path.to_owned(),
                    (path, field) => super::child_path(path, field),
                };
                let message = rule.message_program.as_ref().and_then(|program| message(program, context));
                let message = message.as_deref().unwrap_or(&rule.message);
                Some(match rule.reason {
                    CauseReason::FieldValueForbidden => Cause::forbidden(&path, message),
                    CauseReason::FieldValueRequired => Cause::required(&path, message),
                    CauseReason::FieldValueDuplicate => Cause::duplicate(&path, &self.type_name()),
                    _ => self.invalid(&path, message),
                })
            }
        }
    }

    /// The API server shows the type of the value instead of the value.
    fn type_name(&self) -> Value {
        match self.node.kind {
            None | Some(Kind::IntOrString) => "".into(),
            Some(kind) => kind.name().into(),
        }
    }

    fn invalid(&self, path: &str, detail: &str) -> Cause {
        Cause::invalid(path, &self.type_name(), detail)
    }
}

fn optional(old: Option<&Cel>) -> CelOptional<'static> {
    let value: Option<Box<dyn Val>> = old.and_then(|old| old.clone().try_into().ok());
    value.map_or_else(CelOptional::none, CelOptional::of)
}

fn message(program: &Program, context: &Context) -> Option<String> {
    let Ok(Cel::String(message)) = program.execute(context) else { return None };
    let message = message.trim();
    let usable = !message.is_empty() && message.len() <= MAX_MESSAGE_BYTES && !message.contains('\n');
    usable.then(|| message.to_owned())
}

fn evaluation_error(error: &ExecutionError, rule: &str) -> String {
    let text = match error {
        ExecutionError::NoSuchOverload(_)
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::ValuesNotComparable(..) => {
            return format!(
                "'no such overload': call arguments did not match a supported operator, function or macro signature \
                 for rule: {rule}"
            );
        }
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(Cel::Int(index)) => format!("index out of bounds: {index}"),
        other => other.to_string(),
    };
    format!("{text} evaluating rule: {rule}")
}
