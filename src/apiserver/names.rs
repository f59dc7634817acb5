//! What keys and values of labels, and the like, may look like.
//!
//! The sentences are those of apimachinery's `validation` package; people search for them.

use crate::apimachinery::name::is_dns1123_subdomain;

/// Of a name, of the name part of a key, and of a label's value.
const MAX: usize = 63;

/// Every complaint about a key of a label or annotation, or a finalizer: `example.com/name` or `name`.
pub(super) fn qualified_name(key: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!(
                "a qualified name {NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                complaints.push("prefix part must be non-empty".to_owned());
            } else {
                complaints
                    .extend(is_dns1123_subdomain(prefix).iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
    };
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX {
        complaints.push(format!("name part must be no more than {MAX} bytes"));
    }
    if !is_word(name) {
        complaints.push(format!("name part {NAME}"));
    }
    complaints
}

/// Every complaint about the value of a label.
pub(super) fn label_value(value: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if value.len() > MAX {
        complaints.push(format!("must be no more than {MAX} bytes"));
    }
    if !value.is_empty() && !is_word(value) {
        complaints.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
             used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    complaints
}

/// Every complaint about a key of a secret's data.
pub(super) fn config_key(key: &str) -> Vec<String> {
    const LONGEST: usize = 253;
    if key.len() > LONGEST {
        return vec![format!("must be no more than {LONGEST} bytes")];
    }
    let mut complaints = Vec::new();
    if key.is_empty() || !key.bytes().all(is_inner) {
        complaints.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
             'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    if key == "." || key.starts_with("..") {
        complaints.push(format!("must not be '{key}'"));
    }
    complaints
}

const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation \
                    is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn is_word(text: &str) -> bool {
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    outer(text.bytes().next()) && outer(text.bytes().last()) && text.bytes().all(is_inner)
}

fn is_inner(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_have_a_domain_in_front() {
        for good in ["a", "A.b_c-9", "example.com/a", "kubectl.kubernetes.io/last-applied-configuration"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "-a", "a-", "a b", "a/b/c", "Example.com/a", &"a".repeat(64)] {
            assert!(!qualified_name(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn values_of_labels_may_be_empty_and_are_short() {
        assert!(label_value("").is_empty());
        assert!(label_value("a.b_C-1").is_empty());
        assert!(!label_value("a b").is_empty());
        assert!(!label_value(&"a".repeat(64)).is_empty());
    }
}
