//! The part of Kubernetes' `JSONPath` that printer columns use.
//!
//! `.a.b`, `.a['b']`, `.a\.b`, `.a[0]`, `.a[-1]`, `.a[*]` and `.a[?(@.type=="Ready")].status`; a path is parsed once,
//! so that a wrong one is found when a resource is registered, not when a list is printed.

use serde_json::Value;

/// Why a path cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} is no supported JSONPath: {message}")]
pub struct JsonPathError {
    path: String,
    message: &'static str,
}

/// A parsed path.
#[derive(Clone, Debug)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { steps: Vec<Self>, condition: Option<(Comparison, Value)> },
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// When the path uses what this subset does not have.
    pub fn parse(path: &str) -> Result<Self, JsonPathError> {
        let trimmed = path.strip_prefix('$').unwrap_or(path);
        parse_steps(trimmed)
            .map(|steps| Self { steps })
            .map_err(|message| JsonPathError { path: path.to_owned(), message })
    }

    /// Every value the path leads to, in document order.
    #[must_use]
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        follow(root, &self.steps)
    }
}

fn follow<'a>(root: &'a Value, steps: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![root];
    for step in steps {
        found = found.into_iter().flat_map(|value| take(value, step)).collect();
    }
    found
}

fn take<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.as_object().and_then(|fields| fields.get(name)).into_iter().collect(),
        Step::Index(index) => {
            let Some(items) = value.as_array() else { return Vec::new() };
            let position = usize::try_from(*index)
                .ok()
                .or_else(|| items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?));
            position.and_then(|position| items.get(position)).into_iter().collect()
        }
        Step::All => children(value),
        Step::Filter { steps, condition } => children(value)
            .into_iter()
            .filter(|item| {
                let found = follow(item, steps);
                match condition {
                    None => !found.is_empty(),
                    Some((comparison, literal)) => {
                        found.first().is_some_and(|one| holds(one, *comparison, literal))
                    }
                }
            })
            .collect(),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn holds(value: &Value, comparison: Comparison, literal: &Value) -> bool {
    let ordering = match (value, literal) {
        (Value::Number(left), Value::Number(right)) => match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => None,
        },
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => None,
    };
    match comparison {
        Comparison::Equal => ordering.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::NotEqual => !ordering.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Less => ordering.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => ordering.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => ordering.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => ordering.is_some_and(std::cmp::Ordering::is_ge),
    }
}

fn parse_steps(mut rest: &str) -> Result<Vec<Step>, &'static str> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (inside, after) = until_bracket(after)?;
            steps.push(bracket(inside.trim())?);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            if after.starts_with('[') || after.is_empty() {
                rest = after;
                continue;
            }
            let (name, after) = field_name(after)?;
            steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            rest = after;
        } else {
            return Err("a step starts with '.' or '['");
        }
    }
    Ok(steps)
}

fn field_name(text: &str) -> Result<(String, &str), &'static str> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    let mut end = text.len();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => name.push(characters.next().ok_or("a backslash ends the path")?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            other => name.push(other),
        }
    }
    if name.is_empty() {
        return Err("a field name is empty");
    }
    Ok((name, text.get(end..).unwrap_or_default()))
}

/// Splits at the bracket that closes the one just opened; quoted text and nested brackets are skipped.
fn until_bracket(text: &str) -> Result<(&str, &str), &'static str> {
    let mut depth = 0_usize;
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => {
                let (inside, closing) = text.split_at_checked(at).ok_or("a bracket is not closed")?;
                return Ok((inside, closing.strip_prefix(']').unwrap_or_default()));
            }
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    Err("a bracket is not closed")
}

fn bracket(inside: &str) -> Result<Step, &'static str> {
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquote(inside) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return self::filter(filter.trim());
    }
    inside.parse().map(Step::Index).map_err(|_| "brackets hold a quoted name, an index, '*' or a filter")
}

fn filter(text: &str) -> Result<Step, &'static str> {
    let operators = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let path_of = |text: &str| parse_steps(text.trim().strip_prefix('@').ok_or("a filter starts with '@'")?);
    for (sign, comparison) in operators {
        if let Some((left, right)) = text.split_once(sign) {
            let literal = literal(right.trim()).ok_or("a filter compares with a literal")?;
            return Ok(Step::Filter { steps: path_of(left)?, condition: Some((comparison, literal)) });
        }
    }
    Ok(Step::Filter { steps: path_of(text)?, condition: None })
}

fn literal(text: &str) -> Option<Value> {
    match unquote(text) {
        Some(plain) => Some(Value::String(plain.to_owned())),
        None => {
            serde_json::from_str(text).ok().filter(|value: &Value| value.is_number() || value.is_boolean())
        }
    }
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(path: &str, value: &Value) -> Vec<Value> {
        JsonPath::parse(path).unwrap().find(value).into_iter().cloned().collect()
    }

    #[test]
    fn fields_indices_and_wildcards_are_followed() {
        let value = json!({"a": {"b": [1, 2, 3], "x.y/z": "q"}});
        assert_eq!(find(".a.b[0]", &value), [json!(1)]);
        assert_eq!(find(".a.b[-1]", &value), [json!(3)]);
        assert_eq!(find(".a['b'][1]", &value), [json!(2)]);
        assert_eq!(find("$.a.b[*]", &value), [json!(1), json!(2), json!(3)]);
        assert_eq!(find(r".a.x\.y/z", &value), [json!("q")]);
        assert_eq!(find(".a['x.y/z']", &value), [json!("q")]);
        assert!(find(".a.b[9]", &value).is_empty());
        assert!(find(".a.b[-9]", &value).is_empty());
        assert!(find(".missing.b", &value).is_empty());
    }

    #[test]
    fn filters_select_list_items() {
        let value =
            json!({"c": [{"type": "Ready", "status": "True", "n": 2}, {"type": "Bound", "status": "False"}]});
        assert_eq!(find(r#".c[?(@.type=="Ready")].status"#, &value), [json!("True")]);
        assert_eq!(find(".c[?(@.type != 'Ready')].status", &value), [json!("False")]);
        assert_eq!(find(".c[?(@.n >= 2)].type", &value), [json!("Ready")]);
        assert_eq!(find(".c[?(@.n)].type", &value), [json!("Ready")]);
        assert!(find(".c[?(@.type==\"Gone\")].status", &value).is_empty());
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for path in ["a", ".a[", ".a[b]", ".a[?(type==1)]", ".a[?(@.b==c)]", ".a..b", r".a\"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
