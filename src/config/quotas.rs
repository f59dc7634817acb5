//! The settings of `[[quotas]]`.

use serde::Deserialize;

use super::value;
use crate::auth::Pattern;
use crate::oci::RepositoryName;

/// How much some repositories may hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaConfig {
    /// Which repositories.
    #[serde(deserialize_with = "value::all_parsed")]
    pub repositories: Vec<Pattern>,
    /// Bytes of their blobs and manifests, each once.
    #[serde(default, deserialize_with = "value::optional_number")]
    pub bytes: Option<u64>,
    /// Their tags.
    #[serde(default, deserialize_with = "value::optional_number")]
    pub tags: Option<u64>,
}

impl QuotaConfig {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> String {
        self.repositories.iter().map(Pattern::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The folders of names that its repositories are in, none of which is in another; the empty one has all.
    #[must_use]
    pub fn folders(&self) -> Vec<String> {
        let mut folders: Vec<String> = self.repositories.iter().map(folder).collect();
        folders.sort_unstable();
        folders.dedup();
        let all = folders.clone();
        folders.retain(|folder| !all.iter().any(|other| is_within(folder, other)));
        folders
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.repositories.is_empty() {
            return Err("it has no repositories; all of them are \"**\"");
        }
        if self.repositories.iter().any(|pattern| pattern.as_str().contains('{')) {
            return Err(
                "{user} and {namespace} stand for who asks, and a quota is the same for all: name each folder, or use *",
            );
        }
        let is_name = |folder: &String| folder.is_empty() || folder.parse::<RepositoryName>().is_ok();
        if !self.folders().iter().all(is_name) {
            return Err("no repository can have such a name");
        }
        if self.bytes.is_none() && self.tags.is_none() {
            return Err("it limits nothing: say bytes or tags");
        }
        Ok(())
    }
}

/// The segments that all names begin with that fit a pattern.
fn folder(pattern: &Pattern) -> String {
    let literal = pattern.as_str().split('/').take_while(|segment| !segment.contains('*'));
    literal.collect::<Vec<_>>().join("/")
}

/// Whether a folder is somewhere in another one.
fn is_within(folder: &str, other: &str) -> bool {
    let rest = folder.strip_prefix(other);
    rest.is_some_and(|rest| !rest.is_empty() && (other.is_empty() || rest.starts_with('/')))
}

/// What is wrong with quotas.
pub(super) fn check(quotas: &[QuotaConfig]) -> Result<(), String> {
    for (index, quota) in quotas.iter().enumerate() {
        quota.check().map_err(|reason| format!("quotas, number {}: {reason}", index + 1))?;
        if quotas.iter().filter(|other| other.name() == quota.name()).count() > 1 {
            return Err(format!("quotas, number {}: {} stands there twice", index + 1, quota.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_are_the_folders_that_the_patterns_are_in() {
        for (patterns, folders) in [
            (&["vi/team-a/**"][..], &["vi/team-a"][..]),
            (&["**"], &[""]),
            (&["vi/team-a*/x"], &["vi"]),
            (&["disks/noble"], &["disks/noble"]),
            (&["vi/a/**", "vi/b/**"], &["vi/a", "vi/b"]),
            (&["vi/a/**", "vi/a-b/**", "vi/a"], &["vi/a", "vi/a-b"]),
            (&["vi/a/**", "**/x"], &[""]),
            (&["vi/a/b", "vi/a/**"], &["vi/a"]),
        ] {
            let repositories = patterns.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(QuotaConfig { repositories, ..QuotaConfig::default() }.folders(), folders);
        }
    }
}
