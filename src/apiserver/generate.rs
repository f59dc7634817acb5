//! Names from `metadata.generateName`.

use uuid::Uuid;

/// Without vowels and what looks like them, so that no words come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// A name has to fit into a label.
const MAX_NAME: usize = 63;

/// A name that begins with `prefix` and is not taken.
pub(super) fn name(prefix: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut end = prefix.len().min(MAX_NAME - SUFFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let prefix = prefix.get(..end).unwrap_or_default();
    loop {
        let name = format!("{prefix}{}", suffix());
        if !is_taken(&name) {
            return name;
        }
    }
}

fn suffix() -> String {
    let mut random = Uuid::new_v4().as_u128();
    let mut suffix = String::with_capacity(SUFFIX);
    for _ in 0..SUFFIX {
        // The lowest bits: those that a UUID fixes are far above.
        let index = usize::try_from(random % 27).unwrap_or_default();
        suffix.push(ALPHABET.get(index).copied().map_or('b', char::from));
        random /= 27;
    }
    suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_fits_into_a_label() {
        for prefix in ["a-", &"a".repeat(100), &"ä".repeat(100)] {
            let name = name(prefix, |_| false);
            assert!(name.len() <= MAX_NAME && name.len() > SUFFIX, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_given_again() {
        let taken = std::cell::Cell::new(2_u32);
        let is_taken = |_: &str| taken.replace(taken.get().saturating_sub(1)) > 0;
        assert!(name("a-", is_taken).starts_with("a-"));
        assert_eq!(taken.get(), 0);
    }
}
