//! All resources that are served.

use std::sync::Arc;

use super::resource::Resource;

#[derive(Debug)]
pub(super) struct Scheme {
    resources: Vec<Arc<Resource>>,
}

impl Scheme {
    pub(super) fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        Self { resources: resources.into_iter().map(Arc::new).collect() }
    }

    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.version(group, version).find(|resource| resource.plural == plural)
    }

    /// The resource that objects of a kind are of, as owner references name it.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.resources.iter().find(|resource| resource.group == group && resource.kind == kind)
    }

    /// The resources of one version of one group.
    pub(super) fn version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter().filter(move |resource| resource.group == group && resource.version == version)
    }

    /// The groups besides the core group, sorted.
    pub(super) fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.resources.iter().map(|resource| resource.group.as_str()).collect();
        groups.retain(|group| !group.is_empty());
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// The versions of a group.
    pub(super) fn versions(&self, group: &str) -> Vec<&str> {
        let of_group = self.resources.iter().filter(|resource| resource.group == group);
        let mut versions: Vec<&str> = of_group.map(|resource| resource.version.as_str()).collect();
        versions.sort_unstable();
        versions.dedup();
        versions
    }
}
