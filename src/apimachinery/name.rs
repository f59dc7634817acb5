//! Names of objects.
//!
//! The checks return the API server's complaints word for word, since clients print them and users search for them.

use std::sync::LazyLock;

use regex::Regex;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

static LABEL_PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("^{LABEL}$")).ok());
static SUBDOMAIN_PATTERN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(&format!("^{SUBDOMAIN}$")).ok());

fn fits(pattern: &LazyLock<Option<Regex>>, name: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
}

/// Every complaint of the API server about `name` as a DNS-1123 subdomain; none when it is good.
#[must_use]
pub fn is_dns1123_subdomain(name: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        complaints.push(format!("must be no more than {SUBDOMAIN_MAX} bytes"));
    }
    if !fits(&SUBDOMAIN_PATTERN, name) {
        complaints.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '{SUBDOMAIN}')"
        ));
    }
    complaints
}

/// Every complaint of the API server about `name` as a DNS-1123 label; none when it is good.
#[must_use]
pub fn is_dns1123_label(name: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if name.len() > LABEL_MAX {
        complaints.push(format!("must be no more than {LABEL_MAX} bytes"));
    }
    if !fits(&LABEL_PATTERN, name) {
        complaints.push(if fits(&SUBDOMAIN_PATTERN, name) {
            "must not contain dots".to_owned()
        } else {
            // Two spaces before "or": the API server prints them.
            format!(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '{LABEL}')"
            )
        });
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_have_no_complaints() {
        assert!(is_dns1123_subdomain("ubuntu-24.04").is_empty());
        assert!(is_dns1123_label("my-project").is_empty());
    }

    #[test]
    fn a_dot_in_a_label_is_named() {
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn upper_case_newlines_and_length_are_refused() {
        assert!(is_dns1123_subdomain("Ubuntu")[0].starts_with("a lowercase RFC 1123 subdomain must consist"));
        assert_eq!(is_dns1123_label("a\n").len(), 1);
        assert_eq!(is_dns1123_label("").len(), 1);
        assert_eq!(is_dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(is_dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 bytes"]);
    }
}
