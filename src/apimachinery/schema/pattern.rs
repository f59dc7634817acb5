//! [`Pattern`]: a regular expression that means what it means to the API server, which has Go's.
//!
//! There `\w`, `\d`, `\s` and `\b` are about ASCII. Here they would be about all of Unicode, which takes more than is valid, and for
//! `[\w.-]{0,127}` megabytes. Otherwise the syntax is that of the crate: within `[…]` it knows operators, as `&&`, that Go does not.

use std::fmt;

use regex::Regex;

/// A compiled pattern, which prints as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles what a schema says.
    pub(super) fn compile(text: &str) -> Result<Self, regex::Error> {
        Ok(Self { text: text.to_owned(), regex: Regex::new(&in_ascii(text))? })
    }

    /// Whether a part of the text fits.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The pattern with its classes spelled out, which may also be done within `[…]`: a class in a class belongs to it. Behind a `-` there they
/// are left as they are: no class is the end of a range, and the crate says so.
fn in_ascii(pattern: &str) -> String {
    let mut spelled = String::with_capacity(pattern.len());
    // Of `[…]`, how deep it is.
    let mut depth = 0_usize;
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            match character {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            spelled.push(character);
            continue;
        }
        let is_behind_dash = spelled.ends_with('-') && !spelled.ends_with("[-") && !spelled.ends_with("[^-");
        match characters.next() {
            Some(class @ ('d' | 'D' | 'w' | 'W' | 's' | 'S')) if is_behind_dash && depth > 0 => {
                spelled.extend(['\\', class]);
            }
            Some('d') => spelled.push_str("[0-9]"),
            Some('D') => spelled.push_str("[^0-9]"),
            Some('w') => spelled.push_str("[0-9A-Za-z_]"),
            Some('W') => spelled.push_str("[^0-9A-Za-z_]"),
            Some('s') => spelled.push_str(r"[\t\n\f\r ]"),
            Some('S') => spelled.push_str(r"[^\t\n\f\r ]"),
            Some('b') => spelled.push_str(r"(?-u:\b)"),
            Some('B') => spelled.push_str(r"(?-u:\B)"),
            Some(escaped) => spelled.extend(['\\', escaped]),
            None => spelled.push('\\'),
        }
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_about_ascii() {
        for (pattern, fits, does_not) in [
            (r"^\w+$", "aZ_09", "é"),
            (r"^\d+$", "019", "٣"),
            (r"^\s$", "\t", "\u{a0}"),
            (r"^\S\W\D$", "é-é", " a0"),
            (r"^[\w.-]+$", "a.b-c", "a.ß"),
            (r"^[^\W\d]$", "a", "1"),
            (r"^\bab\b", "ab", "abc"),
            (r"^ab\B", "abc", "abé"),
            (r"^a-\d$", "a-1", "a-b"),
            (r"^[-\w]$", "-", "é"),
            (r"^\\w$", r"\w", "a"),
        ] {
            let compiled = Pattern::compile(pattern).unwrap();
            assert!(compiled.is_match(fits) && !compiled.is_match(does_not), "{pattern}");
            assert_eq!(compiled.to_string(), pattern);
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["(", r"a\", "[a", r"[+-\w]"] {
            assert!(Pattern::compile(pattern).is_err(), "{pattern}");
        }
    }
}
