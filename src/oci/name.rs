//! [`RepositoryName`]: a scope for content within the registry.

use std::fmt;
use std::str::FromStr;

/// A repository's name: path components of lower-case letters and digits, separated within by `.`, `_`, `__` or
/// dashes, joined by `/` (distribution spec, "Pull"). A component may well be called `blobs` or `uploads`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Box<str>);

/// The text is not a repository name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid repository name {text:?}: {reason}")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl RepositoryName {
    /// The longest name in bytes. Clients limit host and name together to 255; a file name has the same
    /// limit and needs a few bytes for itself.
    pub const MAX_LENGTH: usize = 240;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let mut rest = text;
    loop {
        let word = rest.bytes().take_while(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9')).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.bytes().take_while(|b| matches!(b, b'.' | b'_' | b'-')).count();
        let dashes = rest[..separator].bytes().all(|b| b == b'-');
        if !(matches!(&rest[..separator], "." | "_" | "__") || (separator > 0 && dashes)) {
            return false;
        }
        rest = &rest[separator..];
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |reason| InvalidName { text: text.chars().take(Self::MAX_LENGTH).collect(), reason };
        if text.len() > Self::MAX_LENGTH {
            return Err(invalid("it is longer than 240 characters"));
        }
        if !text.split('/').all(is_component) {
            return Err(invalid(
                "its components are lower-case letters and digits, separated by one of . _ __ or dashes",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_grammar_are_names() {
        let longest = "a".repeat(RepositoryName::MAX_LENGTH);
        for text in [
            "a",
            "0",
            "library/ubuntu",
            "vi/default/ubuntu-22.04",
            "a.b_c__d-e---f/g",
            "blobs/uploads",
            "manifests/tags/list",
            "uploads/blobs/uploads",
            longest.as_str(),
        ] {
            assert!(text.parse::<RepositoryName>().is_ok(), "{text:?} was refused");
        }
    }

    #[test]
    fn what_the_grammar_does_not_make_is_no_name() {
        let too_long = "a".repeat(RepositoryName::MAX_LENGTH + 1);
        for text in [
            "", "/", "a/", "/a", "a//b", "A", "a/B", "a..b", "a._b", "a___b", "-a", "a-", "_a", "a_", ".a",
            "a.", "..", "a/../b", "a/./b", "a b", "a%2fb", "a\\b", "a\0", "ä", "a:b", "a@b", "_catalog",
            &too_long,
        ] {
            assert!(text.parse::<RepositoryName>().is_err(), "{text:?} was accepted");
        }
    }
}
