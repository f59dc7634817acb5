//! [`MediaType`]: what a manifest says it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A media type without parameters, such as `application/vnd.oci.image.manifest.v1+json`.
///
/// It is kept as it was given, because a manifest is served with the type it was pushed with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaType(String);

/// The text is not a media type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid media type {text:?}: it must read type/subtype")]
pub struct InvalidMediaType {
    /// What was given.
    pub text: String,
}

impl MediaType {
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A Docker image manifest, schema 2.
    pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

    /// The config of an OCI image.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

    /// The type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether content of this type may be left out of a registry.
    #[must_use]
    pub fn is_nondistributable(text: &str) -> bool {
        text.contains("nondistributable") || text.contains(".foreign.")
    }
}

impl FromStr for MediaType {
    type Err = InvalidMediaType;

    /// Takes a `Content-Type`, whose parameters are dropped (distribution spec, "Pushing Manifests").
    fn from_str(text: &str) -> Result<Self, InvalidMediaType> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let is_token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        match essence.split_once('/') {
            Some((kind, subtype)) if is_token(kind) && is_token(subtype) && essence.len() <= 255 => {
                Ok(Self(essence.to_owned()))
            }
            _ => Err(InvalidMediaType { text: text.chars().take(200).collect() }),
        }
    }
}

impl TryFrom<String> for MediaType {
    type Error = InvalidMediaType;

    fn try_from(text: String) -> Result<Self, InvalidMediaType> {
        text.parse()
    }
}

impl From<MediaType> for String {
    fn from(media_type: MediaType) -> Self {
        media_type.0
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_dropped() {
        let parsed: MediaType = "application/vnd.oci.image.index.v1+json; charset=utf-8".parse().unwrap();
        assert_eq!(parsed.as_str(), MediaType::INDEX);
    }

    #[test]
    fn what_could_break_a_header_is_refused() {
        for text in ["", "json", "a/", "/b", "a/b/c", "a/b\r\nX: y", "a b/c", "é/b"] {
            assert!(text.parse::<MediaType>().is_err(), "{text:?} was accepted");
        }
    }
}
