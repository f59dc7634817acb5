//! [`Event`]: a change that others want to hear of, as it waits in the outbox.

use serde::{Deserialize, Serialize};

use super::record::name;
use crate::oci::{Digest, MediaType, RepositoryName, Tag};

/// What has changed, and who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// What has happened.
    pub change: Change,
    /// Where.
    #[serde(with = "name")]
    pub repository: RepositoryName,
    /// Of a push, the tags that point to the manifest now; of a tag that was deleted, that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "tags")]
    pub tags: Vec<Tag>,
    /// The manifest; none only where what a deleted tag pointed to could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Who asked for it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Why, where nobody asked for it: what rule of retention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the request is called in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// What has happened to a manifest or a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// A manifest was pushed, perhaps one that was there, and tags were pointed to it.
    Pushed,
    /// A manifest was deleted, and with it all tags that pointed to it.
    ManifestDeleted,
    /// A tag was deleted, and nothing else.
    TagDeleted,
}

/// Tags as a list of texts.
mod tags {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::Tag;

    pub(super) fn serialize<S: Serializer>(tags: &[Tag], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(tags.iter().map(Tag::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Tag>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}
