//! Quotas, from the settings.

use crate::auth::Identity;
use crate::config::{Config, QuotaConfig};
use crate::registry::{Quota, Repositories};

/// How much repositories may hold.
pub(super) fn quotas(config: &Config) -> Vec<Quota> {
    config.quotas.iter().map(quota).collect()
}

fn quota(config: &QuotaConfig) -> Quota {
    let (patterns, nobody) = (config.repositories.clone(), Identity::anonymous());
    Quota {
        name: config.name(),
        folders: config.folders(),
        repositories: Repositories::that(move |name| {
            patterns.iter().any(|pattern| pattern.fits(name.as_str(), &nobody))
        }),
        bytes: config.bytes,
        tags: config.tags,
    }
}
