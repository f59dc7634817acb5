//! Records that nothing needs any more: condemned first, buried later, and spared by whoever needs them in between.
//!
//! A collection cannot look at everything at one moment, and stores cannot delete on a condition. So it marks a record as
//! condemned, looks once more whether anything needs it, and puts a tombstone in its place only if it is still as it was marked. Whoever begins to
//! need a record reads it behind having said so: one of the two sees the other, however long either of them sleeps.

use storage_backends::{Condition, Key, Store, Version};

use super::record::{self, Record, Stored};
use super::{ATTEMPTS, Error, Result};

/// A record that is condemned.
#[derive(Debug)]
pub(super) struct Condemned<T> {
    pub(super) record: T,
    /// Since when, in milliseconds since 1970.
    pub(super) since: u64,
    /// The state to bury.
    pub(super) version: Version,
}

/// Condemns a record that was found, at some time, unless it is so already. `None` if it was written since.
pub(super) async fn condemn<T: Record + Send + 'static>(
    store: &dyn Store,
    key: &Key,
    found: Stored<T>,
    now: u64,
) -> Result<Option<Condemned<T>>> {
    let Stored { record, version, condemned, .. } = found;
    if let Some(since) = condemned {
        return Ok(Some(Condemned { record, since, version }));
    }
    let bytes = record::encode_condemned(&record, now);
    match store.put(key, bytes, Condition::Unchanged(version)).await {
        Ok(version) => Ok(Some(Condemned { record, since: now, version })),
        Err(storage_backends::Error::Changed { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Puts a tombstone in the place of a record that is still as it was, and says whether it is.
pub(super) async fn bury(store: &dyn Store, key: &Key, unchanged: Version) -> Result<bool> {
    let buried = record::put_unique(store, key, record::tombstone(), Condition::Unchanged(unchanged)).await?;
    Ok(buried.is_some())
}

/// How to write where there is no record: neither an object, nor only a tombstone.
pub(super) async fn where_none_is(store: &dyn Store, key: &Key) -> Result<Condition> {
    match store.get(key).await {
        Ok(found) if record::is_tombstone(found.bytes.len() as u64) => {
            Ok(Condition::Unchanged(found.version))
        }
        Ok(_) | Err(storage_backends::Error::NotFound { .. }) => Ok(Condition::Absent),
        Err(error) => Err(error.into()),
    }
}

/// The record, which is not condemned any more; `None` where there is none, or only its tombstone.
pub(super) async fn spare<T: Record + Send + 'static>(store: &dyn Store, key: &Key) -> Result<Option<T>> {
    for _ in 0..ATTEMPTS {
        let Some(found) = record::find_stored::<T>(store, key).await? else { return Ok(None) };
        if found.condemned.is_none() {
            return Ok(Some(found.record));
        }
        let spared = record::encode_unique(&found.record);
        match store.put(key, spared, Condition::Unchanged(found.version)).await {
            Ok(_) => return Ok(Some(found.record)),
            Err(storage_backends::Error::Changed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Record { key: key.clone(), reason: "it changed each time it was written".to_owned() })
}
