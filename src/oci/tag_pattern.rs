//! [`TagPattern`]: tags by their names.

use std::fmt;
use std::str::FromStr;

use super::{Tag, in_order};

/// Tags by their names: `*` is anything, everything else stands for itself.
#[derive(Clone, PartialEq, Eq)]
pub struct TagPattern(Box<str>);

/// The text is no pattern of tags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern of tags: it has letters, digits, '_', '.', '-', and '*' for anything")]
pub struct InvalidTagPattern {
    /// What was given.
    pub text: String,
}

impl TagPattern {
    /// Whether a tag fits.
    #[must_use]
    pub fn fits(&self, tag: &Tag) -> bool {
        let texts: Vec<&[u8]> = self.0.split('*').map(str::as_bytes).collect();
        in_order(tag.as_str().as_bytes(), &texts, |tag, text| tag == text)
    }
}

impl FromStr for TagPattern {
    type Err = InvalidTagPattern;

    fn from_str(text: &str) -> Result<Self, InvalidTagPattern> {
        let valid = matches!(text.len(), 1..=128)
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-*".contains(&b))
            && !text.starts_with(['.', '-']);
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTagPattern { text: text.chars().take(200).collect() })
        }
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(pattern: &str, tag: &str) -> bool {
        pattern.parse::<TagPattern>().unwrap().fits(&tag.parse().unwrap())
    }

    #[test]
    fn a_star_is_anything_and_the_rest_is_itself() {
        for (pattern, tag, expected) in [
            ("*", "latest", true),
            ("v*", "v1.2", true),
            ("v*", "V1.2", false),
            ("v*", "rev1", false),
            ("*-rc*", "1.2-rc3", true),
            ("*-rc*", "1.2-r", false),
            ("1.*.0", "1.2.0", true),
            ("1.*.0", "1.0", false),
            ("latest", "latest", true),
            ("latest", "latest2", false),
            ("a.c", "abc", false),
        ] {
            assert_eq!(fits(pattern, tag), expected, "{pattern} {tag}");
        }
    }

    #[test]
    fn what_no_tag_can_fit_is_refused() {
        for text in ["", "a/b", "a:b", "-a", ".a", "a b", "[ab]", "a?", &"t".repeat(129)] {
            assert!(text.parse::<TagPattern>().is_err(), "{text} was accepted");
        }
    }

    proptest! {
        #[test]
        fn patterns_agree_with_regular_expressions(pattern in "[a-b*]{1,6}", tag in "[ab]{1,8}") {
            let expression = format!("^{}$", pattern.replace('*', ".*"));
            let expected = regex::Regex::new(&expression).unwrap().is_match(&tag);
            prop_assert_eq!(fits(&pattern, &tag), expected, "{} {}", pattern, tag);
        }
    }
}
