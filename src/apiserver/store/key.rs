//! Where an object is: `group/plural/namespace/name`, as in etcd.
//!
//! One string that sorts: a resource, and a namespace within a resource, are ranges. No part can hold a slash.

use std::sync::Arc;

/// The place of an object. The namespace of one that has none is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Arc<str>);

impl Key {
    pub(crate) fn new(storage: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{storage}/{namespace}/{name}").into())
    }

    pub(super) fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn namespace(&self) -> &str {
        self.0.split('/').nth(2).unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.0.split('/').nth(3).unwrap_or_default()
    }
}

/// All objects of a resource, or those in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range(String);

impl Range {
    pub(crate) fn all() -> Self {
        Self(String::new())
    }

    pub(crate) fn resource(storage: &str) -> Self {
        Self(format!("{storage}/"))
    }

    pub(crate) fn namespace(storage: &str, namespace: &str) -> Self {
        Self(format!("{storage}/{namespace}/"))
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&self.0)
    }

    pub(super) fn start(&self) -> Key {
        Key::from_stored(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_its_parts_back() {
        let key = Key::new("example.com/widgets", "team", "a");
        assert_eq!((key.namespace(), key.name()), ("team", "a"));
        let key = Key::new("/namespaces", "", "default");
        assert_eq!((key.namespace(), key.name()), ("", "default"));
    }

    #[test]
    fn a_range_does_not_reach_into_names_that_begin_alike() {
        let key = Key::new("example.com/widgets", "team-b", "a");
        assert!(Range::resource("example.com/widgets").contains(&key));
        assert!(!Range::resource("example.com/widget").contains(&key));
        assert!(!Range::namespace("example.com/widgets", "team").contains(&key));
    }
}
