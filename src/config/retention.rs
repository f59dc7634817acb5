//! The settings below `retention`: which tags go, and when images without one do.

use serde::Deserialize;

use super::value;
use crate::auth::{Identity, Pattern};
use crate::oci::{RepositoryName, TagPattern, is_uploaded_file};

/// Seconds for which a manifest stays that nothing needs, unless a rule says otherwise.
const UNTAGGED_AFTER: u64 = 7 * 24 * 60 * 60;

/// The first segments of repositories whose images belong to `VirtualImage` resources, and go with them.
const OF_RESOURCES: [&str; 2] = ["vi", "cvi"];

/// What goes from some repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Which repositories.
    #[serde(deserialize_with = "value::all_parsed")]
    pub repositories: Vec<Pattern>,
    /// Which tags it is about; none: all. Others stay.
    #[serde(deserialize_with = "value::all_parsed")]
    pub tags: Vec<TagPattern>,
    /// Tags that stay, and do not count among the last ones.
    #[serde(deserialize_with = "value::all_parsed")]
    pub keep: Vec<TagPattern>,
    /// So many tags stay, those that were pushed last.
    #[serde(deserialize_with = "value::optional_number")]
    pub keep_last: Option<u64>,
    /// Seconds within which a tag stays that was pushed.
    #[serde(deserialize_with = "value::optional_seconds")]
    pub keep_within: Option<u64>,
    /// Seconds for which a manifest stays that nothing needs; unset: a week, or the grace if that is longer.
    #[serde(deserialize_with = "value::optional_seconds")]
    pub untagged_after: Option<u64>,
}

impl RetentionConfig {
    /// Whether it is for a repository. Those of resources and of what is uploaded for them are nobody's business.
    #[must_use]
    pub fn is_for(&self, name: &RepositoryName) -> bool {
        let nobody = Identity::anonymous();
        !is_of_resources(name.as_str()) && self.repositories.iter().any(|p| p.fits(name.as_str(), &nobody))
    }

    /// Seconds for which a manifest stays that nothing needs.
    #[must_use]
    pub fn untagged_after(&self, grace: u64) -> u64 {
        self.untagged_after.unwrap_or(UNTAGGED_AFTER).max(grace)
    }

    fn check(&self, grace: u64) -> Result<(), String> {
        if self.repositories.is_empty() {
            return Err("it has no repositories; all of them are \"**\"".to_owned());
        }
        for pattern in &self.repositories {
            if pattern.names_caller() {
                return Err(format!("repositories: {pattern} stands for a caller, and nobody calls: use *"));
            }
            if is_of_resources(pattern.as_str()) {
                return Err(format!(
                    "repositories: the images of {pattern} belong to VirtualImage resources and go when those are deleted; \
                     take it out (wider patterns such as ** leave them alone)"
                ));
            }
        }
        let keeps_none = self.keep.is_empty() && self.keep_last.is_none() && self.keep_within.is_none();
        if keeps_none && (self.untagged_after.is_none() || !self.tags.is_empty()) {
            return Err(
                "it does not say which tags stay, and would delete them all: give it keep_last, keep_within or keep \
                 (or untagged_after alone, and all tags stay)"
                    .to_owned(),
            );
        }
        if self.keep_last == Some(0) && self.keep.is_empty() && self.keep_within.is_none() {
            return Err(
                "keep_last = 0 would delete all tags; give it at least 1, or keep_within or keep".to_owned()
            );
        }
        match self.untagged_after {
            Some(after) if after < grace => Err(format!(
                "untagged_after must be at least the grace, {grace} seconds: the images of an index are pushed ahead of it; \
                 it is {after}"
            )),
            _ => Ok(()),
        }
    }
}

/// What is wrong with rules.
pub(super) fn check(rules: &[RetentionConfig], grace: u64) -> Result<(), String> {
    for (number, rule) in (1..).zip(rules) {
        rule.check(grace).map_err(|reason| format!("retention, number {number}: {reason}"))?;
    }
    Ok(())
}

/// Whether a name, or all that fit a pattern, are repositories of resources or of what is uploaded for them.
fn is_of_resources(text: &str) -> bool {
    let (first, rest) = text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)));
    (OF_RESOURCES.contains(&first) && rest.is_some()) || is_uploaded_file(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(repositories: &[&str]) -> RetentionConfig {
        let repositories = repositories.iter().map(|pattern| pattern.parse().unwrap()).collect();
        RetentionConfig { repositories, keep_last: Some(1), ..RetentionConfig::default() }
    }

    #[test]
    fn what_belongs_to_resources_is_left_alone_by_the_widest_pattern() {
        let all = rule(&["**"]);
        for (name, expected) in [
            ("images/a", true),
            ("vi", true),
            ("vi/team/disk", false),
            ("cvi/disk", false),
            ("uploads/0190d5c6-0000-7000-8000-000000000000", false),
            ("uploads", true),
            ("uploads/mine", true),
            ("my/vi/disk", true),
            ("vim/disk", true),
        ] {
            assert_eq!(all.is_for(&name.parse().unwrap()), expected, "{name}");
        }
        assert!(!rule(&["images/*"]).is_for(&"images/a/b".parse().unwrap()));
    }

    #[test]
    fn a_rule_that_would_delete_too_much_is_refused_with_the_way_out() {
        let good = rule(&["images/**"]);
        assert_eq!(good.check(60), Ok(()));
        let bare = RetentionConfig { keep_last: None, ..good.clone() };
        let tags = vec!["v*".parse().unwrap()];
        for (rule, says) in [
            (RetentionConfig { repositories: Vec::new(), ..good.clone() }, "\"**\""),
            (bare.clone(), "keep_last, keep_within or keep"),
            (
                RetentionConfig { tags, untagged_after: Some(60), ..bare.clone() },
                "keep_last, keep_within or keep",
            ),
            (RetentionConfig { keep_last: Some(0), ..good.clone() }, "at least 1"),
            (RetentionConfig { untagged_after: Some(59), ..good.clone() }, "the grace, 60 seconds"),
            (rule(&["images/**", "vi/**"]), "vi/** belong to VirtualImage resources"),
            (rule(&["cvi/*"]), "cvi/* belong"),
            (rule(&["uploads/0190d5c6-0000-7000-8000-000000000000"]), "belong to VirtualImage"),
            (rule(&["images/{user}"]), "images/{user} stands for a caller"),
        ] {
            let refused = check(&[good.clone(), rule], 60).unwrap_err();
            assert!(refused.starts_with("retention, number 2: ") && refused.contains(says), "{refused}");
        }
        assert_eq!(RetentionConfig { untagged_after: Some(60), ..bare }.check(60), Ok(()));
        assert_eq!((good.untagged_after(60), good.untagged_after(1_000_000)), (604_800, 1_000_000));
    }
}
