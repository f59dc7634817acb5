//! The settings of `[[quotas]]`.

use serde::Deserialize;

use super::value;
use crate::auth::Pattern;

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

    /// The folder of names that all its repositories are in: the segments that all patterns begin with.
    #[must_use]
    pub fn folder(&self) -> String {
        let literal = |pattern: &Pattern| -> Vec<String> {
            let segments = pattern.as_str().split('/').take_while(|segment| !segment.contains('*'));
            segments.map(str::to_owned).collect()
        };
        let mut patterns = self.repositories.iter().map(literal);
        let first = patterns.next().unwrap_or_default();
        let common = patterns.fold(first, |common, other| {
            common.into_iter().zip(other).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
        });
        common.join("/")
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
        if self.bytes.is_none() && self.tags.is_none() {
            return Err("it limits nothing: say bytes or tags");
        }
        Ok(())
    }
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
    fn what_is_listed_is_the_folder_that_all_patterns_are_in() {
        for (patterns, folder) in [
            (&["vi/team-a/**"][..], "vi/team-a"),
            (&["**"], ""),
            (&["vi/team-a*/x"], "vi"),
            (&["disks/noble"], "disks/noble"),
            (&["vi/a/**", "vi/b/**"], "vi"),
            (&["vi/a/**", "cvi/**"], ""),
            (&["vi/a/**", "vi/a"], "vi/a"),
        ] {
            let repositories = patterns.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(QuotaConfig { repositories, ..QuotaConfig::default() }.folder(), folder);
        }
    }
}
