//! [`Pattern`]: the repositories that a rule is for.
//!
//! A pattern is matched segment by segment, so that `vi/team-a/*` never reaches into `vi/team-a/x/y` nor `vi/team-ab`. What
//! stands for the caller is put in as it is: somebody who calls themselves `*` is no pattern.

use std::fmt;
use std::str::FromStr;

use super::Identity;
use crate::oci::in_order;

/// Repositories by their names: `*` is anything within a segment, `**` any number of segments, `{namespace}` the caller's
/// Kubernetes namespace and `{user}` the caller's name.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`
    Many,
    /// One segment.
    One(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Star,
    Namespace,
    User,
}

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern of repositories: {reason}")]
pub struct InvalidPattern {
    text: String,
    reason: &'static str,
}

impl Pattern {
    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is for all repositories that there can be.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.segments == [Segment::Many]
    }

    /// Whether it is for some caller's repositories, and for none without one.
    #[must_use]
    pub fn names_caller(&self) -> bool {
        let names = |piece: &Piece| matches!(piece, Piece::Namespace | Piece::User);
        self.segments
            .iter()
            .any(|segment| matches!(segment, Segment::One(pieces) if pieces.iter().any(names)))
    }

    /// Whether a repository fits, for this caller. A segment `*` of the name stands for any that there can be, and fits only
    /// what fits them all.
    #[must_use]
    pub fn fits(&self, name: &str, caller: &Identity) -> bool {
        let name: Vec<&str> = name.split('/').collect();
        let Some(wanted) = self.segments.iter().map(|s| s.resolve(caller)).collect::<Option<Vec<_>>>() else {
            return false;
        };
        let between: Vec<&[Wanted]> = wanted.split(|segment| matches!(segment, Wanted::Many)).collect();
        in_order(&name, &between, |names, wanted| {
            names.len() == wanted.len() && names.iter().zip(wanted).all(|(name, wanted)| wanted.fits(name))
        })
    }
}

/// A segment with what stands for the caller put in.
enum Wanted {
    Many,
    /// Texts with anything between them.
    One(Vec<String>),
}

impl Segment {
    /// `None` when the caller has no such thing.
    fn resolve(&self, caller: &Identity) -> Option<Wanted> {
        let Self::One(pieces) = self else { return Some(Wanted::Many) };
        let mut texts = vec![String::new()];
        for piece in pieces {
            let text = match piece {
                Piece::Text(text) => text,
                Piece::Namespace => caller.namespace.as_deref().filter(|name| !name.contains('*'))?,
                // A name that reads like a pattern is none.
                Piece::User => caller.user.as_deref().filter(|name| !name.contains('*'))?,
                Piece::Star => {
                    texts.push(String::new());
                    continue;
                }
            };
            if let Some(last) = texts.last_mut() {
                last.push_str(text);
            }
        }
        Some(Wanted::One(texts))
    }
}

impl Wanted {
    fn fits(&self, name: &str) -> bool {
        let Self::One(texts) = self else { return false };
        let texts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        in_order(name.as_bytes(), &texts, |name, text| name == text)
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason| InvalidPattern { text: text.to_owned(), reason };
        let segment = |segment: &str| match segment {
            "" => Err(invalid("a segment is empty")),
            "**" => Ok(Segment::Many),
            _ if segment.contains("**") => Err(invalid("** is a segment of its own")),
            _ => pieces(segment).map(Segment::One).map_err(invalid),
        };
        let segments = text.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), segments })
    }
}

fn pieces(segment: &str) -> Result<Vec<Piece>, &'static str> {
    let mut pieces = Vec::new();
    let mut rest = segment;
    while let Some(next) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix('*') {
            pieces.push(Piece::Star);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{namespace}") {
            pieces.push(Piece::Namespace);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{user}") {
            pieces.push(Piece::User);
            rest = behind;
        } else if matches!(next, '{' | '}') {
            return Err("what stands for the caller is {namespace} or {user}");
        } else {
            let end = rest.find(['*', '{', '}']).unwrap_or(rest.len());
            let (text, behind) = rest.split_at(end);
            if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)) {
                return Err("names have lower-case letters, digits, and . _ - only");
            }
            pieces.push(Piece::Text(text.to_owned()));
            rest = behind;
        }
    }
    Ok(pieces)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().fits(name, &Identity::anonymous())
    }

    #[test]
    fn a_star_stays_within_its_segment_and_two_go_to_any_depth() {
        for (pattern, name, expected) in [
            ("vi/team-a/*", "vi/team-a/x", true),
            ("vi/team-a/*", "vi/team-a/x/y", false),
            ("vi/team-a/*", "vi/team-ab/x", false),
            ("vi/team-a/*", "vi/team-a", false),
            ("vi/team-a/**", "vi/team-a/x/y/z", true),
            ("vi/team-a/**", "vi/team-a", true),
            ("vi/team-a/**", "vi/team-ab", false),
            ("vi/team-a/**", "a/vi/team-a/x", false),
            ("**", "a", true),
            ("**", "a/b/c", true),
            ("*", "a/b", false),
            ("**/disk", "disk", true),
            ("**/disk", "a/b/disk", true),
            ("**/disk", "a/b/disks", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/m/**/z", "a/m/z", true),
            ("a/**/m/**/z", "a/z", false),
            ("web-*", "web-1", true),
            ("*-web", "my-web", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("a/**/a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_stands_for_any_name_fits_only_what_fits_all() {
        for (pattern, expected) in
            [("vi/a/*", true), ("vi/a/**", true), ("vi/a/w*", false), ("vi/a/*w", false), ("vi/*/*", true)]
        {
            assert_eq!(fits(pattern, "vi/a/*"), expected, "{pattern}");
        }
        assert!(!fits("vi/a/*", "vi/*/*") && fits("vi/**", "vi/*/*"));
    }

    #[test]
    fn what_stands_for_the_caller_is_the_caller_and_no_pattern() {
        let pattern: Pattern = "vi/{namespace}/**".parse().unwrap();
        let account = Identity::service_account("system:serviceaccount:team-a:x").unwrap();
        assert!(pattern.fits("vi/team-a/disk", &account));
        assert!(!pattern.fits("vi/team-b/disk", &account));
        assert!(!pattern.fits("vi/team-a/disk", &Identity::user("team-a")));
        assert!(!pattern.fits("vi//disk", &Identity::anonymous()));
        let home: Pattern = "home/{user}/**".parse().unwrap();
        assert!(
            pattern.names_caller()
                && home.names_caller()
                && !"vi/*/**".parse::<Pattern>().unwrap().names_caller()
        );
        assert!(home.fits("home/alice/disk", &Identity::user("alice")));
        for name in ["*", "**", "alice/../bob", "a*"] {
            assert!(!home.fits("home/alice/disk", &Identity::user(name)), "{name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "/", "a//b", "a/", "/a", "a/b**", "***", "{other}/a", "{user", "A/b", "a b", "a:b"] {
            assert!(text.parse::<Pattern>().is_err(), "{text} was accepted");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_without_wildcards_fits_itself_alone(
            name in "[a-z0-9]{1,3}(/[a-z0-9]{1,3}){0,3}",
            other in "[a-z0-9]{1,3}(/[a-z0-9]{1,3}){0,3}",
        ) {
            prop_assert!(fits(&name, &name));
            prop_assert_eq!(fits(&name, &other), name == other);
        }

        #[test]
        fn patterns_agree_with_regular_expressions(
            pattern in "(\\*|[ab]{1,2}\\*?[ab]?|\\*\\*)(/(\\*|[ab]{1,2}\\*?[ab]?|\\*\\*)){0,4}",
            name in "[ab]{1,3}(/[ab]{1,3}){0,4}",
        ) {
            // Each segment with its slash, so that any number of them can be left out.
            let expression: String = pattern.split('/').map(|segment| match segment {
                "**" => "([^/]+/)*".to_owned(),
                other => format!("{}/", other.replace('*', "[^/]*")),
            }).collect();
            let expected = regex::Regex::new(&format!("^{expression}$")).unwrap().is_match(&format!("{name}/"));
            prop_assert_eq!(fits(&pattern, &name), expected, "{} {}", pattern, name);
        }
    }
}
