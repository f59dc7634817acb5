//! Data objects.

use bytes::Bytes;
use futures::TryStreamExt;

use super::{Fixture, key};
use crate::{Error, Key, Paused, Resumed, Store, WriterState};

/// Bytes that differ from place to place, a few parts of a store in memory long.
pub(super) fn sample(length: usize) -> Bytes {
    (0..length).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

pub(super) async fn read(store: &dyn Store, key: &Key, range: std::ops::Range<u64>) -> Vec<u8> {
    let pieces: Vec<Bytes> = store.read(key, range).await.unwrap().try_collect().await.unwrap();
    pieces.concat()
}

/// Any range, from the first byte to the last.
pub async fn written_data_is_read_back_by_any_range(f: &Fixture) {
    let key = key("data/whole");
    let bytes = sample(3_000_000);
    let mut writer = f.store.create_data(&key).await.unwrap();
    for piece in [0..1, 1..70_000, 70_000..2_500_000, 2_500_000..2_500_000, 2_500_000..3_000_000] {
        writer.write(vec![bytes.slice(piece)]).await.unwrap();
    }
    assert_eq!(writer.length(), 3_000_000);
    assert_eq!(writer.seal().await.unwrap(), 3_000_000);
    for (start, end) in [(0, 3_000_000), (0, 1), (2_999_999, 3_000_000), (262_143, 262_145), (5, 5)] {
        let found = read(f.store.as_ref(), &key, start as u64..end as u64).await;
        assert!(found == bytes[start..end], "{start}..{end}");
    }
}

/// A short read is a failure, never a short answer.
pub async fn a_range_past_the_end_fails(f: &Fixture) {
    let key = key("data/short");
    let mut writer = f.store.create_data(&key).await.unwrap();
    writer.write(vec![sample(1000)]).await.unwrap();
    writer.seal().await.unwrap();
    assert!(f.store.read(&key, 0..1001).await.is_err());
    assert!(f.store.read(&key, 2000..2001).await.is_err());
}

/// An upload may have no bytes at all.
pub async fn an_empty_data_object_seals_at_zero(f: &Fixture) {
    let writer = f.store.create_data(&key("data/empty")).await.unwrap();
    assert_eq!(writer.seal().await.unwrap(), 0);
}

/// In the same object where the store appends, in the next where it does not.
pub async fn a_paused_writer_goes_on_where_it_stopped(f: &Fixture) {
    let first = key("data/paused");
    let bytes = sample(2_000_000);
    let mut writer = f.store.create_data(&first).await.unwrap();
    writer.write(vec![bytes.slice(..1_200_000)]).await.unwrap();
    match writer.pause().await.unwrap() {
        Paused::Sealed(length) => {
            assert!(!f.store.capabilities().appends);
            assert_eq!(length, 1_200_000);
            assert!(read(f.store.as_ref(), &first, 0..length).await == bytes[..1_200_000]);
        }
        Paused::Open(state) => {
            assert!(f.store.capabilities().appends);
            assert_eq!(state.length, 1_200_000);
            let Resumed::Open(mut writer) = f.store.resume_data(&state).await.unwrap() else {
                panic!("a store that appends resumed in a sealed object");
            };
            writer.write(vec![bytes.slice(1_200_000..)]).await.unwrap();
            assert_eq!(writer.seal().await.unwrap(), 2_000_000);
            assert!(read(f.store.as_ref(), &first, 0..2_000_000).await == bytes);
        }
    }
}

/// Writes until the store has something to come back to. S3 has it at whole parts only.
async fn checkpointed(f: &Fixture, key: &Key) -> (Bytes, WriterState) {
    const STEP: usize = 1 << 20;
    let bytes = sample(16 * STEP);
    let mut writer = f.store.create_data(key).await.unwrap();
    for end in (STEP..=bytes.len()).step_by(STEP) {
        writer.write(vec![bytes.slice(end - STEP..end)]).await.unwrap();
        if let Some(state) = writer.checkpoint().await.unwrap() {
            assert_eq!(state.length, end as u64);
            // More bytes that nobody vouches for, and then the process dies.
            writer.write(vec![Bytes::from_static(b"never acknowledged")]).await.unwrap();
            return (bytes.slice(..end), state);
        }
    }
    panic!("no checkpoint within {} bytes", bytes.len());
}

/// What a crash leaves behind the last checkpoint does not count.
pub async fn bytes_after_a_checkpoint_are_dropped_by_a_resumed_writer(f: &Fixture) {
    let key = key("data/crashed");
    let (bytes, state) = checkpointed(f, &key).await;
    let sealed = match f.store.resume_data(&state).await.unwrap() {
        Resumed::Sealed(length) => length,
        Resumed::Open(writer) => writer.seal().await.unwrap(),
    };
    assert_eq!(sealed, bytes.len() as u64);
    assert!(read(f.store.as_ref(), &key, 0..sealed).await == bytes);
    assert!(f.store.read(&key, 0..sealed + 1).await.is_err());
    if !f.store.capabilities().appends {
        // The reply may have been lost: resuming again gives the same answer.
        assert!(matches!(f.store.resume_data(&state).await.unwrap(), Resumed::Sealed(n) if n == sealed));
    }
}

/// Giving up leaves no object.
pub async fn a_discarded_writer_leaves_nothing(f: &Fixture) {
    let key = key("data/discarded");
    let mut writer = f.store.create_data(&key).await.unwrap();
    writer.write(vec![sample(2_000_000)]).await.unwrap();
    writer.discard().await.unwrap();
    assert!(matches!(f.store.read(&key, 0..1).await, Err(Error::NotFound { .. })));
}

/// Nor does giving up later, in another process; and it can be repeated.
pub async fn a_discarded_state_leaves_nothing(f: &Fixture) {
    let key = key("data/abandoned");
    let (_, state) = checkpointed(f, &key).await;
    f.store.discard_data(&state).await.unwrap();
    f.store.discard_data(&state).await.unwrap();
    assert!(matches!(f.store.read(&key, 0..1).await, Err(Error::NotFound { .. })));
    assert!(matches!(f.store.resume_data(&state).await, Err(Error::DataLost { .. })));
}

/// A writer never goes on over missing bytes.
pub async fn a_lost_data_object_is_reported_when_it_is_resumed(f: &Fixture) {
    let (_, mut state) = checkpointed(f, &key("data/lost")).await;
    state.key = "data/never-written".into();
    if let Some(multipart) = &mut state.multipart {
        multipart.id = "4711".into();
    }
    let resumed = f.store.resume_data(&state).await;
    assert!(matches!(resumed, Err(Error::DataLost { .. })), "{resumed:?}");
}
