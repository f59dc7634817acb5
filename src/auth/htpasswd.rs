//! [`Htpasswd`]: users and the hashes of their passwords, as `htpasswd -B` writes them.
//!
//! Only bcrypt: everything else that such files may hold (MD5, SHA-1, crypt, plain text) is guessed within hours by whoever gets
//! hold of the file, and is refused rather than taken in silence.

use std::collections::HashMap;

/// The largest cost. One more doubles what each login takes; this one takes seconds.
const MOST_COST: u32 = 15;

/// The cost that an unknown user is made to take when the file names none.
const USUAL_COST: u32 = 10;

/// Users of one file.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Htpasswd {
    hashes: HashMap<String, String>,
    /// A hash that no password is known for, and that costs as much as the dearest in the file.
    nobody: String,
}

/// The file is none that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct InvalidHtpasswd {
    line: usize,
    reason: String,
}

impl std::fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Htpasswd({} users)", self.hashes.len())
    }
}

impl Htpasswd {
    /// Reads the text of a file. What is wrong never shows more of a line than the user's name.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidHtpasswd> {
        let (mut hashes, mut most) = (HashMap::new(), None);
        for (index, line) in text.lines().enumerate() {
            let invalid = |reason: String| InvalidHtpasswd { line: index + 1, reason };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((user, hash)) = line.split_once(':') else {
                return Err(invalid("it must read USER:HASH".to_owned()));
            };
            if user.is_empty() {
                return Err(invalid("the name of the user is empty".to_owned()));
            }
            let cost = cost(hash).map_err(|reason| {
                invalid(format!(
                    "the password of {user:?} {reason}: set it anew with `htpasswd -B FILE {user}`"
                ))
            })?;
            most = most.max(Some(cost));
            if hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(invalid(format!("{user:?} stands in the file twice")));
            }
        }
        let nobody = format!(
            "$2y${:02}${}",
            most.unwrap_or(USUAL_COST),
            "abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZabcde"
        );
        Ok(Self { hashes, nobody })
    }

    /// The hash of a user's password.
    pub(super) fn hash(&self, user: &str) -> Option<&str> {
        self.hashes.get(user).map(String::as_str)
    }

    /// A hash of nobody's password, for those who are not in the file: who is there cannot be told by the time it takes.
    pub(super) fn nobody(&self) -> &str {
        &self.nobody
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }
}

/// What a hash costs, if it is one of bcrypt.
fn cost(hash: &str) -> Result<u32, String> {
    let Some(rest) = ["$2y$", "$2b$", "$2a$"].into_iter().find_map(|prefix| hash.strip_prefix(prefix)) else {
        return Err(format!("is not hashed with bcrypt but {}", kind(hash)));
    };
    let damaged = || "has a damaged bcrypt hash".to_owned();
    let (cost, rest) = rest.split_once('$').ok_or_else(damaged)?;
    let cost: u32 = cost.parse().map_err(|_| damaged())?;
    if rest.len() != 53 || !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b)) {
        return Err(damaged());
    }
    if !(4..=MOST_COST).contains(&cost) {
        return Err(format!("has the bcrypt cost {cost}, which must be 4 to {MOST_COST}"));
    }
    Ok(cost)
}

fn kind(hash: &str) -> &'static str {
    match hash {
        _ if hash.starts_with("$apr1$") || hash.starts_with("$1$") => "with MD5",
        _ if hash.starts_with("{SHA}") => "with SHA-1",
        _ if hash.starts_with("$5$") || hash.starts_with("$6$") => "with crypt",
        _ if hash.starts_with("$argon2") => "with Argon2",
        _ => "in another way, or not at all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZabcde";

    #[test]
    fn users_are_found_by_their_whole_name() {
        let file = Htpasswd::parse(&format!("# ours\n\nalice:{HASH}\r\n bob:{HASH}\n")).unwrap();
        assert_eq!(file.hash("alice"), Some(HASH));
        assert_eq!(file.hash("bob"), Some(HASH));
        assert_eq!(file.hash("Alice"), None);
        assert_eq!(file.len(), 2);
    }

    #[test]
    fn what_is_not_bcrypt_is_refused_with_its_line_and_without_its_hash() {
        for (line, said) in [
            ("bob:$apr1$x$secretsecret", "MD5"),
            ("bob:{SHA}secretsecret", "SHA-1"),
            ("bob:$6$salt$secretsecret", "crypt"),
            ("bob:secretsecret", "in another way"),
            ("bob:$2y$05$secretsecret", "damaged"),
            ("bob:$2y$31$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZabcde", "cost 31"),
        ] {
            let error = Htpasswd::parse(&format!("alice:{HASH}\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(said) && error.contains("bob"), "{error}");
            assert!(error.contains("htpasswd -B"), "{error}");
            assert!(!error.contains("secretsecret"), "{error}");
        }
        assert!(Htpasswd::parse("alice").unwrap_err().to_string().contains("line 1"));
        assert!(Htpasswd::parse(&format!("a:{HASH}\na:{HASH}")).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn nobody_costs_as_much_as_the_dearest_user() {
        let dear = HASH.replace("$05$", "$09$");
        let file = Htpasswd::parse(&format!("a:{HASH}\nb:{dear}\n")).unwrap();
        assert!(file.nobody().starts_with("$2y$09$"));
        assert!(cost(file.nobody()).is_ok());
        assert_eq!(bcrypt::verify("x", &file.nobody().replace("$09$", "$04$")).ok(), Some(false));
    }
}
