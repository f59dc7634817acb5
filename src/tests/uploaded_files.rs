//! Files that people upload for an image: kept over broken connections, sealed once, and gone when they are not wanted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dvcr::oci::{Reference, uploaded_file, uploaded_file_tag};
use dvcr::registry::{
    BodyError, Depth, Error, Piece, Registry, Rules, Staged, Staging, StagingError, Total, Verification,
};
use futures::future::join_all;
use futures::{StreamExt, stream};
use storage_backends::fault::{Fault, Faulty};
use storage_backends::{Condition, Key, Store};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::interrupted::Interrupted;
use super::registry_under_test::{
    Client, body, broken_body, faulty, memory, objects, registry, rules, sample,
};

const IMAGE: Uuid = Uuid::from_u128(0x5b60_8020_7361_434f_8000_0000_0000_0001);

/// What stands before the file, so that its digest is nobody's guess.
const SALT: usize = 4096;

fn staging(store: &Arc<dyn Store>) -> (Arc<Registry>, Staging) {
    let registry = Arc::new(registry(store));
    (Arc::clone(&registry), Staging::new(registry))
}

/// The whole of a file.
fn all(file: &Bytes) -> Piece {
    let length = file.len() as u64;
    Piece { start: 0, length: Some(length), total: Total::Bytes(length) }
}

/// What is missing of a file.
fn rest(file: &Bytes, start: usize) -> Piece {
    let length = Some((file.len() - start) as u64);
    Piece { start: start as u64, length, total: Total::Bytes(file.len() as u64) }
}

/// The file as an import reads it.
async fn uploaded(registry: &Registry) -> Bytes {
    let name = uploaded_file(IMAGE);
    let manifest = registry.manifest(&name, &Reference::Tag(uploaded_file_tag())).await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    let digest = document["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    registry.pull(name.as_str(), &digest).await.unwrap().slice(SALT..)
}

#[tokio::test]
async fn a_file_comes_whole_and_cannot_be_changed_then() {
    let (registry, staging) = staging(&memory());
    let file = sample(20_000);
    assert_eq!(staging.staged(IMAGE).await.unwrap(), Staged::Partial { length: 0 });
    let size = file.len() as u64;
    assert_eq!(staging.receive(IMAGE, all(&file), body(&file)).await.unwrap(), Staged::Whole { size });
    assert_eq!(staging.staged(IMAGE).await.unwrap(), Staged::Whole { size });
    assert_eq!(uploaded(&registry).await, file);
    let again = staging.receive(IMAGE, all(&file), body(&file)).await;
    assert!(matches!(again, Err(StagingError::Whole)), "{again:?}");
}

#[tokio::test]
async fn a_file_whose_length_nobody_knows_ends_with_its_body() {
    let (registry, staging) = staging(&memory());
    let file = sample(5_000);
    let piece = Piece { start: 0, length: None, total: Total::EndOfPiece };
    staging.receive(IMAGE, piece, body(&file)).await.unwrap();
    assert_eq!(uploaded(&registry).await, file);
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_at_another_replica() {
    let store = memory();
    let (_, first) = staging(&store);
    let (registry, second) = staging(&store);
    let file = sample(30_000);
    let broken = first.receive(IMAGE, all(&file), broken_body(&file.slice(..12_345))).await;
    assert!(broken.is_err());
    let Staged::Partial { length } = second.staged(IMAGE).await.unwrap() else { panic!("it is not whole") };
    let start = usize::try_from(length).unwrap();
    assert!(start > 0 && start <= 12_345, "{start}");
    second.receive(IMAGE, rest(&file, start), body(&file.slice(start..))).await.unwrap();
    assert_eq!(uploaded(&registry).await, file);
}

#[tokio::test]
async fn a_piece_that_leaves_a_gap_is_told_where_the_upload_stands() {
    let (_, staging) = staging(&memory());
    let file = sample(9_000);
    let piece = Piece { length: Some(4_000), ..all(&file) };
    staging.receive(IMAGE, piece, body(&file.slice(..4_000))).await.unwrap();
    let gap = staging.receive(IMAGE, rest(&file, 5_000), body(&file.slice(5_000..))).await;
    assert!(matches!(gap, Err(StagingError::OutOfOrder { length: 4_000 })), "{gap:?}");
}

#[tokio::test]
async fn a_piece_that_begins_at_0_begins_the_file_anew() {
    let (registry, staging) = staging(&memory());
    let (wrong, file) = (sample(8_000), Bytes::from(vec![7; 6_000]));
    staging.receive(IMAGE, all(&wrong), broken_body(&wrong.slice(..5_000))).await.unwrap_err();
    staging.receive(IMAGE, all(&file), body(&file)).await.unwrap();
    assert_eq!(uploaded(&registry).await, file);
}

#[tokio::test]
async fn more_bytes_than_were_announced_are_no_file() {
    let (_, staging) = staging(&memory());
    let file = sample(5_000);
    let piece = Piece { start: 0, length: None, total: Total::Bytes(4_000) };
    let long = staging.receive(IMAGE, piece, body(&file)).await;
    assert!(matches!(long, Err(StagingError::TooLong { total: 4_000, length: 5_000 })), "{long:?}");
    assert_eq!(staging.staged(IMAGE).await.unwrap(), Staged::Partial { length: 0 });
}

#[tokio::test]
async fn while_one_is_sending_it_is_told_how_far_and_nobody_else_may() {
    let (_, staging) = staging(&memory());
    let file = sample(6_000);
    let (send, pieces) = mpsc::channel::<Result<Bytes, BodyError>>(1);
    let arriving =
        stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) }).boxed();
    let receive = staging.receive(IMAGE, all(&file), arriving);
    let others = async {
        send.send(Ok(file.slice(..2_000))).await.unwrap();
        while staging.staged(IMAGE).await.unwrap()
            != (Staged::Receiving { length: 2_000, total: Some(6_000) })
        {
            tokio::task::yield_now().await;
        }
        let other = staging.receive(IMAGE, all(&file), body(&file)).await;
        assert!(matches!(other, Err(StagingError::Busy)), "{other:?}");
        send.send(Ok(file.slice(2_000..))).await.unwrap();
        drop(send);
    };
    let (received, ()) = tokio::join!(receive, others);
    assert_eq!(received.unwrap(), Staged::Whole { size: 6_000 });
}

#[tokio::test]
async fn what_is_removed_while_it_is_sent_is_gone_and_may_be_sent_again() {
    let (registry, staging) = staging(&memory());
    let file = sample(6_000);
    let endless = body(&file).chain(stream::pending()).boxed();
    let piece = Piece { start: 0, length: None, total: Total::EndOfPiece };
    let removed = async {
        while !matches!(staging.staged(IMAGE).await.unwrap(), Staged::Receiving { length: 6_000, .. }) {
            tokio::task::yield_now().await;
        }
        staging.remove(IMAGE).await.unwrap();
    };
    let (received, ()) = tokio::join!(staging.receive(IMAGE, piece, endless), removed);
    assert!(received.is_err());
    assert_eq!(staging.staged(IMAGE).await.unwrap(), Staged::Partial { length: 0 });
    staging.receive(IMAGE, all(&file), body(&file)).await.unwrap();
    staging.remove(IMAGE).await.unwrap();
    assert_eq!(staging.staged(IMAGE).await.unwrap(), Staged::Partial { length: 0 });
    staging.receive(IMAGE, all(&file), body(&file)).await.unwrap();
    assert_eq!(uploaded(&registry).await, file);
}

#[tokio::test]
async fn what_is_closed_takes_nothing_any_more_at_any_replica() {
    let store = memory();
    let [(_, first), (_, second)] = [staging(&store), staging(&store)];
    let file = sample(3_000);
    first.receive(IMAGE, all(&file), body(&file)).await.unwrap();
    first.close(IMAGE).await.unwrap();
    first.close(IMAGE).await.unwrap();
    for staging in [first, second] {
        let late = staging.receive(IMAGE, all(&file), body(&file)).await;
        assert!(matches!(late, Err(StagingError::Closed)), "{late:?}");
    }
}

#[tokio::test]
async fn the_store_may_fail_at_any_call_and_the_file_is_sent_again() {
    let file = sample(9_000);
    for fault in [Fault::Fails, Fault::LosesReply] {
        for call in 0.. {
            let (store, registry) = faulty(rules());
            let registry = Arc::new(registry);
            let staging = Staging::new(Arc::clone(&registry));
            store.arm(None, call, fault);
            let first = staging.receive(IMAGE, all(&file), body(&file)).await;
            let happened = store.disarm();
            if first.is_err() {
                match staging.receive(IMAGE, all(&file), body(&file)).await {
                    // It failed behind the last thing that had to be done.
                    Ok(_) | Err(StagingError::Whole) => {}
                    Err(error) => panic!("{fault:?} at call {call}: {error}"),
                }
            }
            assert_eq!(uploaded(&registry).await, file, "{fault:?} at call {call}");
            if !happened {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_just_becoming_whole_is_neither_begun_anew_nor_lost() {
    let file = sample(9_000);
    let mut met = 0;
    for call in 0.. {
        let store = memory();
        let faulty = Arc::new(Faulty::new(Arc::clone(&store)));
        let sealing: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
        let ((_, first), (registry, second)) = (staging(&sealing), staging(&store));
        faulty.arm(None, call, Fault::Fails);
        let first = first.receive(IMAGE, all(&file), body(&file)).await;
        let happened = faulty.disarm();
        // Where the first one stopped nobody knows whether it goes on.
        match second.receive(IMAGE, all(&file), body(&file)).await {
            Ok(Staged::Whole { .. }) => {}
            Err(StagingError::Whole) => met += u32::from(first.is_err()),
            other => panic!("call {call}: {other:?}"),
        }
        assert_eq!(uploaded(&registry).await, file, "call {call}");
        if !happened {
            break;
        }
    }
    assert!(met > 0, "the sealing was never met");
}

#[tokio::test]
async fn what_was_acknowledged_of_a_file_is_there_at_every_moment_until_all_of_it_is() {
    let file = sample(9_000);
    for fault in [Fault::Fails, Fault::LosesReply] {
        for call in 0.. {
            let store = memory();
            let faulty = Arc::new(Faulty::new(Arc::clone(&store)));
            let failing: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
            let ((_, first), (_, second)) = (staging(&failing), staging(&store));
            let piece = Piece { start: 0, length: Some(4_000), total: Total::More };
            first.receive(IMAGE, piece, body(&file.slice(..4_000))).await.unwrap();
            faulty.arm(None, call, fault);
            let end = first.receive(IMAGE, rest(&file, 4_000), body(&file.slice(4_000..))).await;
            let happened = faulty.disarm();
            match second.staged(IMAGE).await.unwrap() {
                Staged::Whole { size: 9_000 } => {}
                Staged::Partial { length: 4_000.. } if end.is_err() => {}
                other => panic!("{fault:?} at call {call}: {other:?} after {end:?}"),
            }
            if !happened {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_was_removed_is_not_closed() {
    let store = memory();
    let [(_, first), (registry, second)] = [staging(&store), staging(&store)];
    let file = sample(9_000);
    for _ in 0..2 {
        first.receive(IMAGE, all(&file), body(&file)).await.unwrap();
        first.remove(IMAGE).await.unwrap();
        assert_eq!(second.staged(IMAGE).await.unwrap(), Staged::Partial { length: 0 });
    }
    second.receive(IMAGE, all(&file), body(&file)).await.unwrap();
    assert_eq!(uploaded(&registry).await, file);
}

/// The sessions of uploads that are there, as they are named.
async fn sessions(store: &Arc<dyn Store>) -> Vec<Key> {
    objects(store, "uploads").await
}

#[tokio::test]
async fn a_session_that_is_damaged_is_put_aside_and_the_file_comes_anew() {
    for damage in [&b"{"[..], b""] {
        let store = memory();
        let (registry, staging) = staging(&store);
        let file = sample(20_000);
        staging.receive(IMAGE, all(&file), broken_body(&file.slice(..9_000))).await.unwrap_err();
        for session in sessions(&store).await {
            store.put(&session, Bytes::from_static(damage), Condition::None).await.unwrap();
        }
        let (lines, mut come) = mpsc::channel(100);
        registry
            .verify(Verification { depth: Depth::Quick, ..Verification::default() }, &lines)
            .await
            .unwrap();
        come.close();
        assert_eq!(staging.staged(IMAGE).await.unwrap(), Staged::Partial { length: 0 });
        staging.receive(IMAGE, all(&file), body(&file)).await.unwrap();
        assert_eq!(uploaded(&registry).await, file);
    }
}

/// For how long nobody goes on with an upload that is collected.
const ABANDONED: Duration = Duration::from_secs(3);

/// At one call of a collection somebody begins anew the file whose old upload is collected just then.
///
/// Gives false when the collection makes fewer calls.
async fn begins_in_a_collection(skip: usize, end: bool) -> bool {
    let store = memory();
    let (_, staging) = staging(&store);
    let file = sample(20_000);
    staging.receive(IMAGE, all(&file), broken_body(&file.slice(..9_000))).await.unwrap_err();
    if end {
        staging.remove(IMAGE).await.unwrap();
    }
    tokio::time::sleep(ABANDONED).await;
    let interrupted = Arc::new(Interrupted::new(Arc::clone(&store)));
    let shared: Arc<dyn Store> = Arc::<Interrupted>::clone(&interrupted);
    let collector = Registry::with_rules(shared, Rules { abandoned: ABANDONED, ..rules() });
    let (reached, go_on) = interrupted.at(skip);
    let collecting = async {
        collector.collect(false).await.unwrap();
        interrupted.never();
    };
    let beginning = async {
        reached.await.ok()?;
        let begun = Instant::now();
        let received = staging.receive(IMAGE, all(&file), broken_body(&file.slice(..9_000))).await;
        let broken = matches!(received, Err(StagingError::Registry(Error::BodyInterrupted)));
        let there = staging.staged(IMAGE).await.unwrap();
        go_on.send(()).unwrap();
        Some((begun, broken.then_some(there)))
    };
    let ((), begun) = tokio::join!(collecting, beginning);
    let Some((begun, there)) = begun else { return false };
    // On a machine that stands still it may have been abandoned by now.
    if begun.elapsed() < ABANDONED
        && let Some(there) = there
    {
        assert_eq!(staging.staged(IMAGE).await.unwrap(), there, "call {skip}");
    }
    true
}

#[tokio::test]
async fn a_file_that_is_begun_anew_is_not_taken_for_the_upload_that_was_abandoned() {
    for end in [false, true] {
        let calls = join_all((0..30).map(|skip| begins_in_a_collection(skip, end))).await;
        assert!(calls[3] && !calls[29], "{calls:?}");
    }
}

#[tokio::test]
async fn nothing_stays_of_an_upload_that_nobody_comes_back_to() {
    let store = memory();
    let (_, staging) = staging(&store);
    let file = sample(20_000);
    staging.receive(IMAGE, all(&file), broken_body(&file.slice(..9_000))).await.unwrap_err();
    let rules = Rules { abandoned: Duration::ZERO, ..rules() };
    let collector = Registry::with_rules(Arc::clone(&store), rules);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        collector.collect(false).await.unwrap();
    }
    assert!(sessions(&store).await.is_empty());
}
