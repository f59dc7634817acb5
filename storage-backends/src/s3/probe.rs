//! Whether the server honours conditional puts. Some accept the header and ignore it; one released
//! version let several racing writers win.

use bytes::Bytes;
use futures::future::join_all;
use uuid::Uuid;

use crate::{Condition, Error, Key, Result, Store};

/// What the server did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Honoured,
    /// What went wrong, in a few words.
    Broken(&'static str),
}

/// Writers that race in the probe. Two already show a server that ignores the header; some servers make
/// each further one wait a second.
const RACERS: u8 = 3;

pub(super) async fn conditional_put(store: &dyn Store) -> Result<Verdict> {
    let key = Key::parse(format!("probe/{}", Uuid::now_v7()))
        .map_err(|invalid| Error::unusable(invalid.to_string()))?;
    let verdict = examine(store, &key).await?;
    store.delete(&key).await?;
    Ok(verdict)
}

async fn examine(store: &dyn Store, key: &Key) -> Result<Verdict> {
    let racers = (0..RACERS).map(|i| store.put(key, Bytes::from(vec![i]), Condition::Absent));
    let mut winners = Vec::new();
    for outcome in join_all(racers).await {
        match outcome {
            Ok(version) => winners.push(version),
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(unreachable_server(&error)),
        }
    }
    let first = match winners.as_slice() {
        [first] => first,
        [] => return Err(Error::unusable("the S3 server refused to create an object that is not there")),
        _ => return Ok(Verdict::Broken("several creations of one key won")),
    };
    store.put(key, Bytes::from_static(b"next"), Condition::Unchanged(first.clone())).await?;
    match store.put(key, Bytes::from_static(b"stale"), Condition::Unchanged(first.clone())).await {
        Err(Error::Changed { .. }) => Ok(Verdict::Honoured),
        Ok(_) => Ok(Verdict::Broken("an object was replaced under a stale ETag")),
        Err(error) => Err(error),
    }
}

/// The probe is the first request to the server, so its failure is mostly a wrong setting.
fn unreachable_server(error: &Error) -> Error {
    let cause = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    Error::unusable(format!(
        "cannot write to the S3 bucket; check endpoint, bucket and credentials ({cause})"
    ))
}
