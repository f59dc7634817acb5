//! Faults, injected between the backend and its user.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::data::{read, sample};
use super::{Fixture, key};
use crate::fault::{Fault, Faulty, Operation};
use crate::{Condition, Entry, Error, Resumed, Store};

fn faulty(f: &Fixture) -> Faulty {
    Faulty::new(Arc::clone(&f.store))
}

/// Half a write does not become part of an object unless its writer says so.
pub async fn a_write_that_fails_half_way_publishes_nothing(f: &Fixture) {
    let (store, key) = (faulty(f), key("fault/half"));
    let mut writer = store.create_data(&key).await.unwrap();
    writer.write(vec![sample(1 << 23)]).await.unwrap();
    let state = writer.checkpoint().await.unwrap();
    store.arm(Some(Operation::WriteData), 0, Fault::Fails);
    // Less than a part: object_store's memory completes an upload with all parts it has, not those named.
    assert!(writer.write(vec![sample(1 << 20)]).await.is_err());
    let Some(state) = state else {
        // Nothing to come back to: the object must not be there either.
        drop(writer);
        assert!(matches!(f.store.read(&key, 0..1).await, Err(Error::NotFound { .. })));
        return;
    };
    drop(writer);
    let length = match f.store.resume_data(&state).await.unwrap() {
        Resumed::Sealed(length) => length,
        Resumed::Open(writer) => writer.seal().await.unwrap(),
    };
    assert_eq!(length, 1 << 23);
    assert!(read(f.store.as_ref(), &key, 0..length).await == sample(1 << 23));
    assert!(f.store.read(&key, 0..length + 1).await.is_err());
}

/// A listing that breaks off must not look complete.
pub async fn a_listing_page_that_fails_is_an_error_not_an_end(f: &Fixture) {
    for name in ["fault/list/a", "fault/list/b", "fault/list/c"] {
        f.store.put(&key(name), Bytes::new(), Condition::None).await.unwrap();
    }
    let store = faulty(f);
    store.arm(Some(Operation::List), 0, Fault::Fails);
    let broken: Result<Vec<Entry>, Error> = store.list(&key("fault/list"), None).try_collect().await;
    assert!(broken.is_err());
    let whole: Vec<Entry> = store.list(&key("fault/list"), None).try_collect().await.unwrap();
    assert_eq!(whole.len(), 3);
}

/// Nor must a read.
pub async fn a_read_that_fails_is_an_error_not_an_end(f: &Fixture) {
    let (store, key) = (faulty(f), key("fault/read"));
    let mut writer = store.create_data(&key).await.unwrap();
    writer.write(vec![sample(1_000_000)]).await.unwrap();
    writer.seal().await.unwrap();
    store.arm(Some(Operation::Read), 0, Fault::Fails);
    let broken: Result<Vec<Bytes>, Error> = store.read(&key, 0..1_000_000).await.unwrap().try_collect().await;
    assert!(broken.is_err());
}

/// Whoever repeats a creation learns from the object whether it was his own.
pub async fn a_lost_reply_to_a_creation_shows_the_callers_own_object(f: &Fixture) {
    let (store, key) = (faulty(f), key("fault/created"));
    store.arm(Some(Operation::Put), 0, Fault::LosesReply);
    assert!(store.put(&key, Bytes::from_static(b"mine"), Condition::Absent).await.is_err());
    let again = store.put(&key, Bytes::from_static(b"mine"), Condition::Absent).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    assert_eq!(store.get(&key).await.unwrap().bytes, "mine");
}

/// Repeating a delete is harmless.
pub async fn a_lost_reply_to_a_delete_is_repaired_by_repeating_it(f: &Fixture) {
    let (store, key) = (faulty(f), key("fault/deleted"));
    store.put(&key, Bytes::from_static(b"x"), Condition::Absent).await.unwrap();
    store.arm(Some(Operation::Delete), 0, Fault::LosesReply);
    assert!(store.delete(&key).await.is_err());
    store.delete(&key).await.unwrap();
    assert!(matches!(store.get(&key).await, Err(Error::NotFound { .. })));
}
