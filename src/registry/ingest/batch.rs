//! Pieces of a body, gathered until there is enough to be worth a hop to another thread.

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use super::{Body, BodyError};

/// Bytes that are hashed and written in one go. Arbitrary: large enough that the hops between threads cost little
/// beside the hash (half a millisecond), small enough that three of them a connection are nothing.
const BATCH: usize = 1 << 20;

/// Some bytes of a body, and how it ended if it did.
pub(super) struct Batch {
    pub(super) pieces: Vec<Bytes>,
    pub(super) end: Option<Result<(), BodyError>>,
}

/// Smaller pieces are copied together: a client that sends its body byte by byte must not cost a
/// whole buffer for each.
const SMALL_PIECE: usize = 4 << 10;

pub(super) async fn next_batch(body: &mut Body) -> Batch {
    let mut batch = Batch { pieces: Vec::new(), end: None };
    let mut crumbs = BytesMut::new();
    let mut filled = 0;
    while filled < BATCH {
        match body.next().await {
            Some(Ok(piece)) => {
                filled += piece.len();
                if piece.len() < SMALL_PIECE {
                    crumbs.extend_from_slice(&piece);
                    continue;
                }
                if !crumbs.is_empty() {
                    batch.pieces.push(crumbs.split().freeze());
                }
                batch.pieces.push(piece);
            }
            Some(Err(error)) => {
                batch.end = Some(Err(error));
                break;
            }
            None => {
                batch.end = Some(Ok(()));
                break;
            }
        }
    }
    if !crumbs.is_empty() {
        batch.pieces.push(crumbs.freeze());
    }
    batch
}

/// Takes the first `limit` bytes out of `pieces`.
pub(super) fn take_front(pieces: &mut Vec<Bytes>, limit: u64) -> Vec<Bytes> {
    let mut taken = 0;
    let mut whole = 0;
    for piece in pieces.iter() {
        if taken + piece.len() as u64 > limit {
            break;
        }
        taken += piece.len() as u64;
        whole += 1;
    }
    let rest = pieces.split_off(whole);
    let mut front = std::mem::replace(pieces, rest);
    if let (Some(next), Ok(room)) = (pieces.first_mut(), usize::try_from(limit - taken))
        && room > 0
    {
        front.push(next.split_to(room));
    }
    front
}

pub(super) fn total(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn taking_from_the_front_loses_and_reorders_nothing(
            lengths in proptest::collection::vec(0usize..20, 0..10),
            limit in 1u64..100,
        ) {
            let mut counter = 0u8;
            let mut pieces: Vec<Bytes> = lengths
                .iter()
                .map(|n| (0..*n).map(|_| { counter = counter.wrapping_add(1); counter }).collect())
                .collect();
            let all = pieces.concat();
            let front = take_front(&mut pieces, limit);
            prop_assert_eq!(total(&front), limit.min(all.len() as u64));
            prop_assert_eq!([front.concat(), pieces.concat()].concat(), all);
        }
    }
}
