//! Rules of retention, from the settings.

use std::time::Duration;

use crate::config::{Config, RetentionConfig};
use crate::registry::{Repositories, RetentionRule};

/// The rules, in their order.
pub(super) fn rules(config: &Config) -> Vec<RetentionRule> {
    config.retention.iter().map(|rule| self::rule(rule, config.grace)).collect()
}

fn rule(config: &RetentionConfig, grace: u64) -> RetentionRule {
    let own = config.clone();
    RetentionRule {
        repositories: Repositories::that(move |name| own.is_for(name)),
        tags: config.tags.clone(),
        keep: config.keep.clone(),
        keep_last: config.keep_last,
        keep_within: config.keep_within.map(Duration::from_secs),
        untagged_after: Duration::from_secs(config.untagged_after(grace)),
    }
}
