//! Field selectors: `=`, `==` and `!=` on dotted paths, joined by commas.
//!
//! Which paths a resource supports is the server's knowledge, so the terms are readable from outside.

use serde_json::Value;

use super::SelectorError;

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The dotted path, e.g. `metadata.name`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// True for `=` and `==`, false for `!=`.
    pub equal: bool,
}

/// A parsed field selector; the empty one matches everything.
#[derive(Clone, Debug, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses `metadata.name=a,involvedObject.kind!=Pod`; a backslash escapes `,`, `=` and itself in values.
    ///
    /// # Errors
    /// When the text is not a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let refused = || SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'"));
            let (field, equal, value) = split_operator(&term).ok_or_else(refused)?;
            let value = unescape(value).ok_or_else(refused)?;
            requirements.push(FieldRequirement { field: field.to_owned(), value, equal });
        }
        Ok(Self { requirements })
    }

    /// Whether the object fulfils every requirement; a missing field counts as the empty string.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements.iter().all(|term| (field_text(object, &term.field) == term.value) == term.equal)
    }

    /// The terms, so that the server can refuse the fields it does not support.
    #[must_use]
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value that `field` must equal, if a term says so (a list of one name needs no scan).
    #[must_use]
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|term| term.equal && term.field == field)
            .map(|term| term.value.as_str())
    }

    /// Whether there is no requirement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

fn field_text(object: &Value, path: &str) -> String {
    match path.split('.').try_fold(object, |value, key| value.get(key)) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        _ => String::new(),
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == ',' && !escaped {
            terms.push(String::new());
            continue;
        }
        escaped = character == '\\' && !escaped;
        if let Some(term) = terms.last_mut() {
            term.push(character);
        }
    }
    terms
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    // The first unescaped operator counts; a value may not contain a bare `=`.
    let at = term.find('=')?;
    let (left, right) = term.split_at_checked(at)?;
    if let Some(field) = left.strip_suffix('!') {
        return Some((field, false, right.strip_prefix('=')?));
    }
    Some((left, true, right.strip_prefix("==").or_else(|| right.strip_prefix('='))?))
}

fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next()? {
                escaped @ ('\\' | ',' | '=') => plain.push(escaped),
                _ => return None,
            },
            '=' | ',' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn terms_are_combined() {
        let selector = FieldSelector::parse("involvedObject.name=a,involvedObject.kind!=Pod").unwrap();
        assert!(selector.matches(&json!({"involvedObject": {"name": "a", "kind": "VirtualImage"}})));
        assert!(!selector.matches(&json!({"involvedObject": {"name": "a", "kind": "Pod"}})));
        assert!(!selector.matches(&json!({})));
        assert_eq!(selector.required_value("involvedObject.name"), Some("a"));
        assert_eq!(selector.required_value("involvedObject.kind"), None);
    }

    #[test]
    fn a_missing_field_equals_the_empty_string() {
        assert!(FieldSelector::parse("type!=Warning").unwrap().matches(&json!({})));
        assert!(FieldSelector::parse("type=").unwrap().matches(&json!({})));
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }

    #[test]
    fn escapes_are_understood_and_nonsense_is_refused() {
        let selector = FieldSelector::parse(r"reason==a\,b\=c").unwrap();
        assert_eq!(selector.requirements()[0].value, "a,b=c");
        for text in ["metadata.name", r"a=b\", r"a=b\x", "a=b=c"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }
}
