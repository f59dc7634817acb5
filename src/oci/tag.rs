//! [`Tag`]: a movable name for a manifest.

use std::fmt;
use std::str::FromStr;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution spec, "Pull").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

/// The text is not a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid tag {text:?}: a tag is at most 128 letters, digits, '_', '.' and '-', and does not begin with \
     '.' or '-'"
)]
pub struct InvalidTag {
    /// What was given.
    pub text: String,
}

impl Tag {
    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let valid = matches!(text.len(), 1..=128)
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && !text.starts_with(['.', '-']);
        if valid { Ok(Self(text.into())) } else { Err(InvalidTag { text: text.chars().take(200).collect() }) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_grammar_makes_is_a_tag() {
        let longest = "t".repeat(128);
        for text in ["latest", "1", "_a", "A.b-c_d", "sha256-abc.sig", &longest] {
            assert!(text.parse::<Tag>().is_ok(), "{text:?} was refused");
        }
        let too_long = "t".repeat(129);
        for text in ["", ".a", "-a", "a/b", "a:b", "a b", "..", "ä", "a\0", "a+b", &too_long] {
            assert!(text.parse::<Tag>().is_err(), "{text:?} was accepted");
        }
    }
}
