//! [`nearest`]: which name somebody may have meant by one that nothing has.

/// How alike a name has to be to be what somebody may have meant, from 0 to 1.
const ALIKE: f64 = 0.7;

/// The name that somebody may have meant.
#[must_use]
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.map(|name| (strsim::jaro_winkler(wrong, name), name));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(score, _)| *score >= ALIKE).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_leads_to_the_one_that_was_meant() {
        let names = ["almalinux-8", "debian-12", "rocky-9", "ubuntu-2204", "ubuntu-2404"];
        for (wrong, meant) in [
            ("ubuntu-24.04", Some("ubuntu-2404")),
            ("ubuntu2404", Some("ubuntu-2404")),
            ("rockylinux-9", Some("rocky-9")),
            ("debain-12", Some("debian-12")),
            ("windows", None),
        ] {
            assert_eq!(nearest(wrong, names.into_iter()), meant, "{wrong}");
        }
    }
}
