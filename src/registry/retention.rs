//! Rules of retention: which tags of a repository go, decided from what was read of them.
//!
//! A tag goes if a rule is about it and none of the rule's clauses keeps it. What becomes of the manifests is decided when the tags
//! are gone ([`collect`](super::collect)).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::milliseconds;
use crate::oci::{Digest, RepositoryName, Tag, TagPattern};

/// The repositories that a rule is for.
#[derive(Clone)]
pub struct Repositories(Arc<dyn Fn(&RepositoryName) -> bool + Send + Sync>);

impl Repositories {
    /// Those for which `fits` says so.
    pub fn that(fits: impl Fn(&RepositoryName) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(fits))
    }

    pub(super) fn has(&self, name: &RepositoryName) -> bool {
        (self.0)(name)
    }
}

impl fmt::Debug for Repositories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Repositories")
    }
}

/// Which tags go, and when images without a tag do.
#[derive(Debug, Clone)]
pub struct RetentionRule {
    /// Which repositories it is for.
    pub repositories: Repositories,
    /// Which tags it is about; none: all. Others stay.
    pub tags: Vec<TagPattern>,
    /// Tags that stay, and do not count among the last ones.
    pub keep: Vec<TagPattern>,
    /// So many tags stay, those that were pushed last.
    pub keep_last: Option<u64>,
    /// Tags stay that were pushed within this time.
    pub keep_within: Option<Duration>,
    /// How long a manifest stays that nothing needs: no tag, no index and no subject. Not less than the grace.
    pub untagged_after: Duration,
}

/// A tag, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PushedTag {
    pub(super) tag: Tag,
    pub(super) digest: Digest,
    /// When it was pushed, or moved, in milliseconds since 1970.
    pub(super) pushed: u64,
}

impl PushedTag {
    /// The manifest that a tag is about by its name, as signatures and referrers have them that are kept in tags:
    /// `sha256-<hex>`, or that with an ending such as `.sig`.
    pub(super) fn subject(&self) -> Option<Digest> {
        let hex = self.tag.as_str().strip_prefix("sha256-")?;
        let hex = hex.split_once('.').map_or(hex, |(hex, _)| hex);
        format!("sha256:{hex}").parse().ok()
    }
}

impl RetentionRule {
    /// The tags that go at some time, in milliseconds since 1970, each with the reason. `buried` are the manifests that a rule has
    /// taken away.
    pub(super) fn expired<'a>(
        &self,
        tags: &'a [PushedTag],
        buried: &HashSet<Digest>,
        now: u64,
    ) -> Vec<(&'a PushedTag, String)> {
        let named = |patterns: &[TagPattern], found: &PushedTag| patterns.iter().any(|p| p.fits(&found.tag));
        let (about_others, mut plain): (Vec<_>, Vec<_>) = tags
            .iter()
            .filter(|found| !named(&self.keep, found))
            .partition(|found| found.subject().is_some());
        let is_left_over =
            |found: &&PushedTag| found.subject().is_some_and(|subject| buried.contains(&subject));
        let mut expired: Vec<_> = about_others
            .into_iter()
            .filter(is_left_over)
            .map(|found| (found, "the image that it is about is gone".to_owned()))
            .collect();
        if self.keeps_some() {
            plain.retain(|found| self.tags.is_empty() || named(&self.tags, found));
            // Of those that were pushed in one moment the one with the greater name is the later one.
            plain.sort_by(|a, b| (b.pushed, &b.tag).cmp(&(a.pushed, &a.tag)));
            let last = self.keep_last.map_or(0, |last| usize::try_from(last).unwrap_or(usize::MAX));
            let is_late = |found: &PushedTag| {
                self.keep_within.is_some_and(|within| found.pushed.saturating_add(milliseconds(within)) > now)
            };
            let gone = plain.into_iter().skip(last).filter(|found| !is_late(found));
            expired.extend(gone.map(|found| (found, self.reason())));
        }
        expired
    }

    /// Whether it says which tags stay. Otherwise all do.
    fn keeps_some(&self) -> bool {
        !self.keep.is_empty() || self.keep_last.is_some() || self.keep_within.is_some()
    }

    /// Why a tag goes that it does not keep.
    fn reason(&self) -> String {
        let name = (!self.keep.is_empty()).then(|| "not kept by name".to_owned());
        let last = self.keep_last.map(|last| format!("not among the {last} pushed last"));
        let within = self.keep_within.map(|within| format!("not pushed within {} s", within.as_secs()));
        [name, last, within].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 60 * 60 * 1000;
    const NOW: u64 = 1000 * DAY;

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    /// A tag that was pushed so many days ago.
    fn tag(name: &str, days: u64) -> PushedTag {
        PushedTag { tag: name.parse().unwrap(), digest: digest(name), pushed: NOW - days * DAY }
    }

    fn patterns(texts: &[&str]) -> Vec<TagPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn rule(tags: &[&str], keep: &[&str], last: Option<u64>, days: Option<u64>) -> RetentionRule {
        RetentionRule {
            repositories: Repositories::that(|_| true),
            tags: patterns(tags),
            keep: patterns(keep),
            keep_last: last,
            keep_within: days.map(|days| Duration::from_millis(days * DAY)),
            untagged_after: Duration::ZERO,
        }
    }

    fn gone(rule: &RetentionRule, tags: &[PushedTag]) -> Vec<String> {
        let expired = rule.expired(tags, &HashSet::new(), NOW);
        let mut names: Vec<_> = expired.into_iter().map(|(found, _)| found.tag.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_tag_stays_if_any_clause_keeps_it() {
        let tags = [
            tag("v1", 50),
            tag("v2", 40),
            tag("v3", 30),
            tag("v4", 1),
            tag("v5", 0),
            tag("lts-1", 90),
            tag("latest", 0),
        ];
        for (rule, expected) in [
            (rule(&[], &["latest", "lts-*"], Some(3), None), &["v1", "v2"][..]),
            (rule(&[], &["latest", "lts-*"], Some(1), Some(35)), &["v1", "v2"]),
            (rule(&[], &[], None, Some(35)), &["lts-1", "v1", "v2"]),
            (rule(&["v*"], &[], Some(2), None), &["v1", "v2", "v3"]),
            (rule(&["v*"], &["v1"], Some(2), None), &["v2", "v3"]),
            (rule(&[], &["v*"], None, None), &["latest", "lts-1"]),
            (rule(&[], &[], Some(100), None), &[]),
            // Only images without a tag are its business.
            (rule(&[], &[], None, None), &[]),
        ] {
            assert_eq!(gone(&rule, &tags), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_reason_names_the_clauses_that_do_not_keep_a_tag() {
        let tags = [tag("v1", 50)];
        let rule = rule(&[], &["latest"], Some(0), Some(2));
        let expired = rule.expired(&tags, &HashSet::new(), NOW);
        assert_eq!(expired[0].1, "not kept by name, not among the 0 pushed last, not pushed within 172800 s");
    }

    #[test]
    fn a_tag_about_an_image_stays_as_long_as_that_is_not_taken_away_and_counts_for_nothing() {
        let (there, gone_one) = (digest("there"), digest("gone"));
        let about = |digest: &Digest, end: &str| tag(&format!("sha256-{}{end}", digest.hex()), 400);
        let tags = [
            about(&there, ".sig"),
            about(&there, ""),
            about(&gone_one, ".att"),
            about(&gone_one, ""),
            tag("v1", 1),
        ];
        let buried = HashSet::from([gone_one]);
        for rule in [rule(&[], &[], Some(1), None), rule(&[], &[], None, None)] {
            let expired = rule.expired(&tags, &buried, NOW);
            let names: Vec<_> = expired.iter().map(|(found, _)| &found.tag).collect();
            assert_eq!(names, [&tags[2].tag, &tags[3].tag]);
        }
        assert!(rule(&[], &["sha256-*"], None, None).expired(&tags[..4], &buried, NOW).is_empty());
    }

    fn any_tags() -> impl Strategy<Value = Vec<PushedTag>> {
        proptest::collection::btree_map("[ab]{1,3}", 0u64..20, 0..12)
            .prop_map(|tags| tags.into_iter().map(|(name, days)| tag(&name, days)).collect())
    }

    proptest! {
        #[test]
        fn what_goes_is_what_no_clause_keeps_and_no_order_matters(
            tags in any_tags(),
            last in proptest::option::of(0u64..6),
            days in proptest::option::of(1u64..20),
            about in proptest::option::of("[ab]\\*"),
            keep in proptest::option::of("\\*[ab]"),
        ) {
            let all = |pattern: &Option<String>| pattern.iter().map(|text| text.parse().unwrap()).collect::<Vec<TagPattern>>();
            let rule = RetentionRule { tags: all(&about), keep: all(&keep), ..rule(&[], &[], last, days) };
            let gone_ones = gone(&rule, &tags);
            let mut turned = tags.clone();
            turned.reverse();
            prop_assert_eq!(&gone(&rule, &turned), &gone_ones);
            let is_gone = |found: &PushedTag| gone_ones.iter().any(|name| found.tag.as_str() == name);
            let is_kept = |found: &PushedTag| rule.keep.iter().any(|pattern| pattern.fits(&found.tag));
            let is_meant = |found: &PushedTag| rule.tags.is_empty() || rule.tags.iter().any(|pattern| pattern.fits(&found.tag));
            let counted: Vec<_> = tags.iter().filter(|found| is_meant(found) && !is_kept(found)).collect();
            for found in &tags {
                let later = counted.iter().filter(|other| (other.pushed, &other.tag) > (found.pushed, &found.tag)).count();
                let stays = is_kept(found)
                    || !is_meant(found)
                    || (last.is_none() && days.is_none() && keep.is_none())
                    || last.is_some_and(|last| (later as u64) < last)
                    || days.is_some_and(|days| NOW - found.pushed < days * DAY);
                prop_assert_eq!(is_gone(found), !stays, "{:?}", found);
            }
        }

        #[test]
        fn to_keep_more_never_takes_more_away(tags in any_tags(), last in 0u64..6, days in 1u64..20, more in 0u64..5) {
            let less = gone(&rule(&[], &[], Some(last), Some(days)), &tags);
            for richer in [rule(&[], &[], Some(last + more), Some(days)), rule(&[], &[], Some(last), Some(days + more)), rule(&[], &["a*"], Some(last), Some(days))] {
                let gone = gone(&richer, &tags);
                prop_assert!(gone.iter().all(|name| less.contains(name)), "{gone:?} {less:?}");
            }
        }
    }
}
