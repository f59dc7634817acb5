//! Every JSON shape that is stored; nothing else is persisted.
//!
//! Each carries a version. A reader takes what is at most its own version and ignores fields it does not
//! know, so a field may be added without a new version when old releases may ignore it. A new kind of
//! [`Extent`] is refused by old releases with an error that says so, and never read as something else.

use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage_backends::{Condition, Key, Object, Store, Version, WriterState};
use uuid::Uuid;

use super::blocking::blocking;
use super::{Error, Result, milliseconds};
use crate::oci::{Digest, HasherState, MediaType, Referrer, RepositoryName};

/// The version that this release writes.
const VERSION: u32 = 1;

/// A shape that is stored.
pub(super) trait Record: Serialize + DeserializeOwned {}

impl Record for BlobRecord {}
impl Record for Membership {}
impl Record for SessionRecord {}
impl Record for Segment {}
impl Record for TagRecord {}
impl Record for ManifestHeader {}
impl Record for ReferrerRecord {}
impl Record for IndexEntry {}
impl Record for CondemnedData {}
impl Record for Objection {}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    /// Another one for each write of a record that is compared and swapped or deleted on a condition: equal bytes
    /// are an equal version to the store, and a later write must not be taken for an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<Uuid>,
    /// When a collection found that nothing needs the record, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condemned: Option<u64>,
    #[serde(flatten)]
    record: T,
}

/// The version of a record alone.
#[derive(Deserialize)]
struct Peek {
    version: u32,
}

/// A record as it is stored.
#[derive(Debug)]
pub(super) struct Stored<T> {
    pub(super) record: T,
    pub(super) version: Version,
    /// When it was condemned, in milliseconds since 1970.
    pub(super) condemned: Option<u64>,
    /// When it was written, in milliseconds since 1970, if no other write has the same bytes.
    pub(super) written: Option<u64>,
}

/// Where the bytes of a blob are: its extents, in order, make up the blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlobRecord {
    pub(super) size: u64,
    pub(super) extents: Vec<Extent>,
}

impl BlobRecord {
    /// Whether bytes of it are elsewhere.
    pub(super) fn needs_data(&self) -> bool {
        self.extents.iter().any(|extent| matches!(extent, Extent::Data { .. } | Extent::Chunks { .. }))
    }

    /// Its recipes, in order.
    pub(super) fn recipes(&self) -> Vec<Uuid> {
        let recipe = |extent: &Extent| match extent {
            Extent::Chunks { recipe, .. } => Some(*recipe),
            _ => None,
        };
        self.extents.iter().filter_map(recipe).collect()
    }
}

/// A run of a blob's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Extent {
    /// Bytes of a data object.
    Data { object: Uuid, offset: u64, length: u64 },
    /// Bytes that a recipe describes, chunk by chunk.
    Chunks { recipe: Uuid, length: u64 },
    /// Bytes that are all zero.
    Zero { length: u64 },
    /// The bytes themselves.
    #[serde(with = "inline")]
    Inline(Bytes),
}

impl Extent {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Data { length, .. } | Self::Chunks { length, .. } | Self::Zero { length } => *length,
            Self::Inline(bytes) => bytes.len() as u64,
        }
    }
}

/// That a blob belongs to a repository. The size stands here too, so that HEAD is one read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) size: u64,
}

/// An upload session between two requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionRecord {
    #[serde(with = "name")]
    pub(super) repository: RepositoryName,
    /// When it began, in seconds since 1970.
    pub(super) started: u64,
    /// Bytes received and safe.
    pub(super) length: u64,
    /// The hash of those bytes.
    pub(super) hasher: HasherState,
    /// Earlier extents, in objects of their own so that a session of 10,000 chunks is not rewritten whole with
    /// each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) segments: Vec<Uuid>,
    /// The extents after those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) extents: Vec<Extent>,
    /// The data object that is being written after those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) writer: Option<WriterState>,
    /// Set where the bytes are stored in chunks: how many bytes of the disk have passed, from where its blocks are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chunked: Option<u64>,
    /// Data that the last request has written or come to use, of which it was to make sure that it stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) claims: Vec<Uuid>,
    /// Whoever ends a session says so here first, by compare-and-swap, so that its data is never both published
    /// and discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ending: Option<Ending>,
}

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ending {
    /// The record of this blob may refer to its data from now on.
    Finishing(Digest),
    /// Its data may be gone from now on.
    Discarding,
    /// It has none, and nobody is to begin another one with its id.
    Closed,
}

impl Ending {
    /// Whether nothing can come of the session any more.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Finishing(_) => false,
            Self::Discarding | Self::Closed => true,
        }
    }
}

/// Extents of a session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) extents: Vec<Extent>,
}

/// The recipes of a blob that was published.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IndexEntry {
    pub(super) recipes: Vec<Uuid>,
}

/// Data objects and recipes that nothing refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CondemnedData {
    /// When they were listed, in milliseconds since 1970.
    pub(super) since: u64,
    pub(super) data: Vec<Uuid>,
    pub(super) recipes: Vec<Uuid>,
    /// Packs that stay where they are, and were found damaged: nothing that comes in is taken to be stored there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) damaged: Vec<Uuid>,
    #[serde(default)]
    pub(super) stage: Stage,
}

impl CondemnedData {
    /// All on the list that is to be deleted.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Uuid> {
        self.data.iter().chain(&self.recipes)
    }
}

/// How far the deletion of a list is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Stage {
    /// Whoever uses something of it objects.
    #[default]
    Open,
    /// No objection is heard any more.
    Closed,
    /// Only that is left on the list which nothing refers to and nobody has objected for: it is deleted.
    Settled,
}

/// Of what is condemned, that which an upload has come to use.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Objection {
    pub(super) objects: Vec<Uuid>,
}

/// What a tag points to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TagRecord {
    pub(super) digest: Digest,
}

/// A referrer of some subject.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReferrerRecord {
    pub(super) referrer: Referrer,
}

/// The first line of a stored manifest; its bytes follow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestHeader {
    pub(super) media_type: MediaType,
    /// Kept here so that deleting a manifest need not read it again as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Digest>,
}

/// What stays where a record was: the bytes of an id, so that no two are the same. Who has seen one and writes in its place
/// must not be taken in by a later one. No record is so small.
pub(super) fn tombstone() -> Bytes {
    Bytes::copy_from_slice(Uuid::now_v7().as_bytes())
}

/// Whether an object of so many bytes is no record, but what stays where one was: a tombstone, or the empty object of a tag
/// or a referrer. Any other size is damage.
pub(super) fn is_tombstone(size: u64) -> bool {
    size == 0 || is_buried(size)
}

/// The same of what is never emptied, where an empty object is damage: the record of a manifest.
pub(super) fn is_buried(size: u64) -> bool {
    size == size_of::<Uuid>() as u64
}

/// The bytes of a record, one line.
pub(super) fn encode<T: Record>(record: &T) -> Bytes {
    encode_versioned(&Versioned { version: VERSION, revision: None, condemned: None, record })
}

/// The bytes of a record that no other write of it has.
pub(super) fn encode_unique<T: Record>(record: &T) -> Bytes {
    let revision = Some(Uuid::now_v7());
    encode_versioned(&Versioned { version: VERSION, revision, condemned: None, record })
}

/// The bytes of a record that was condemned at some time, in milliseconds since 1970.
pub(super) fn encode_condemned<T: Record>(record: &T, at: u64) -> Bytes {
    let revision = Some(Uuid::now_v7());
    encode_versioned(&Versioned { version: VERSION, revision, condemned: Some(at), record })
}

fn encode_versioned<T: Serialize>(versioned: &Versioned<T>) -> Bytes {
    let encoded = serde_json::to_vec(versioned)
        .unwrap_or_else(|error| unreachable!("plain data always serialises: {error}"));
    encoded.into()
}

/// The record in `bytes`, which were found under `key`.
pub(super) fn decode<T: Record>(key: &Key, bytes: &[u8]) -> Result<T> {
    decode_versioned(key, bytes).map(|found| found.record)
}

/// The same, with when it was condemned, in milliseconds since 1970.
pub(super) fn decode_condemned<T: Record>(key: &Key, bytes: &[u8]) -> Result<(T, Option<u64>)> {
    decode_versioned(key, bytes).map(|found| (found.record, found.condemned))
}

/// When an id was made, in milliseconds since 1970, if it says so.
pub(super) fn time_of(id: Uuid) -> Option<u64> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Some(milliseconds(Duration::new(seconds, nanoseconds)))
}

fn decode_versioned<T: Record>(key: &Key, bytes: &[u8]) -> Result<Versioned<T>> {
    let damaged = |reason: String| Error::Record { key: key.clone(), reason };
    let unreadable = |error: serde_json::Error| damaged(error.to_string());
    let Peek { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if version > VERSION {
        return Err(damaged(format!("it has version {version}, this release reads up to {VERSION}")));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Whether what cannot be read as a record was written by a later release, and is no damage therefore.
pub(super) fn is_of_later_release(bytes: &[u8], error: &Error) -> bool {
    let version = serde_json::from_slice::<Peek>(bytes).map(|peek| peek.version);
    // A kind that this release does not know has no version of its own.
    version.is_ok_and(|version| version > VERSION || error.to_string().contains("unknown variant"))
}

/// What was found, or nothing with a warning where it is damaged: for whoever looks at very many.
pub(super) fn unless_damaged<T>(found: Result<Option<T>>) -> Result<Option<T>> {
    match found {
        Err(error @ Error::Record { .. }) => {
            tracing::warn!(%error, "a record is passed over");
            Ok(None)
        }
        found => found,
    }
}

/// Larger records, of blobs in very many extents, are read on the blocking threads.
const DECODE_IN_PLACE: usize = 64 << 10;

/// Reads a record, `None` when there is no object or a tombstone.
pub(super) async fn find<T: Record + Send + 'static>(
    store: &dyn Store,
    key: &Key,
) -> Result<Option<(T, Version)>> {
    Ok(find_stored(store, key).await?.map(|found| (found.record, found.version)))
}

/// The same, with all that is known of it.
pub(super) async fn find_stored<T: Record + Send + 'static>(
    store: &dyn Store,
    key: &Key,
) -> Result<Option<Stored<T>>> {
    let Object { bytes, version } = match store.get(key).await {
        Ok(object) if is_tombstone(object.bytes.len() as u64) => return Ok(None),
        Ok(object) => object,
        Err(storage_backends::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Versioned { record, condemned, revision, .. } = if bytes.len() > DECODE_IN_PLACE {
        let found = key.clone();
        blocking(move || decode_versioned(&found, &bytes)).await?
    } else {
        decode_versioned(key, &bytes)?
    };
    let written = revision.and_then(time_of);
    Ok(Some(Stored { record, version, condemned, written }))
}

/// Writes on a condition what no other write has: the version that it is then, or `None` if something else stands there.
///
/// A write that is repeated below us because its reply was lost meets itself, and is known by its bytes.
pub(super) async fn put_unique(
    store: &dyn Store,
    key: &Key,
    unique: Bytes,
    condition: Condition,
) -> Result<Option<Version>> {
    match store.put(key, unique.clone(), condition).await {
        Ok(version) => Ok(Some(version)),
        Err(refused) if refused.is_refusal() => match store.get(key).await {
            Ok(found) => Ok((found.bytes == unique).then_some(found.version)),
            Err(storage_backends::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Bytes as base64 text.
pub(super) mod inline {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::{Bytes, Deserialize};

    pub(in crate::registry) fn serialize<S: serde::Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(in crate::registry) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

/// A repository name as text.
pub(super) mod name {
    use super::{Deserialize, RepositoryName};

    pub(in crate::registry) fn serialize<S: serde::Serializer>(
        name: &RepositoryName,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(name)
    }

    pub(in crate::registry) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<RepositoryName, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::parse("some/record").unwrap()
    }

    #[test]
    fn a_blob_record_of_every_kind_of_extent_reads_as_this_text() {
        let record = BlobRecord {
            size: 116,
            extents: vec![
                Extent::Data { object: Uuid::nil(), offset: 7, length: 100 },
                Extent::Chunks { recipe: Uuid::nil(), length: 10 },
                Extent::Zero { length: 2 },
                Extent::Inline(Bytes::from_static(b"abcd")),
            ],
        };
        let text = r#"{"version":1,"size":116,"extents":[{"data":{"object":"00000000-0000-0000-0000-000000000000","offset":7,"length":100}},{"chunks":{"recipe":"00000000-0000-0000-0000-000000000000","length":10}},{"zero":{"length":2}},{"inline":"YWJjZA=="}]}"#;
        assert_eq!(encode(&record), text);
        assert_eq!(decode::<BlobRecord>(&key(), text.as_bytes()).unwrap(), record);
    }

    #[test]
    fn no_two_writes_of_a_unique_record_have_the_same_bytes() {
        let record = TagRecord { digest: Digest::of(crate::oci::Algorithm::Sha256, b"x") };
        assert_ne!(encode_unique(&record), encode_unique(&record));
        assert_eq!(decode::<TagRecord>(&key(), &encode_unique(&record)).unwrap().digest, record.digest);
    }

    #[test]
    fn no_two_tombstones_are_the_same_and_none_is_a_record() {
        assert_ne!(tombstone(), tombstone());
        assert!(is_tombstone(tombstone().len() as u64) && is_tombstone(0));
        let smallest = encode(&BlobRecord { size: 0, extents: Vec::new() });
        assert!(!is_tombstone(smallest.len() as u64));
    }

    #[test]
    fn a_later_version_and_a_later_kind_of_extent_are_refused_by_name() {
        let later = br#"{"version":2,"size":1,"extents":[]}"#;
        let error = decode::<BlobRecord>(&key(), later).unwrap_err().to_string();
        assert!(error.contains("some/record") && error.contains("version 2"), "{error}");
        let kind = br#"{"version":1,"size":1,"extents":[{"cloud":{"id":1}}]}"#;
        let error = decode::<BlobRecord>(&key(), kind).unwrap_err().to_string();
        assert!(error.contains("cloud"), "{error}");
    }

    #[test]
    fn a_field_that_this_release_does_not_know_is_ignored() {
        let text = br#"{"version":1,"size":0,"extents":[],"compressed":false}"#;
        assert!(decode::<BlobRecord>(&key(), text).is_ok());
    }

    #[test]
    fn a_damaged_record_is_an_error_not_a_panic() {
        for text in ["", "{", "null", r#"{"version":1}"#, r#"{"size":1}"#, "\0\0\0"] {
            assert!(decode::<BlobRecord>(&key(), text.as_bytes()).is_err(), "{text}");
        }
    }
}
