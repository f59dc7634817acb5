//! Where chunks that are known lie scattered, some are stored again.
//!
//! Version after version, what a disk is made of lies in more packs, and reading it takes more reads: on a spinning disk and in
//! a bucket each of them costs milliseconds. So there is a most to how many a stretch may take. The shortest runs are stored
//! again, side by side: that costs the least space for each read that is saved.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::registry::recipe::Place;

/// Reads that a stretch may take in any case, however short it is.
const LEAST: u64 = 4;

/// Part of a stretch: bytes, and where they are stored if they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) length: u64,
    pub(super) place: Option<Place>,
}

/// Which parts of a stretch should be stored again, by their numbers, so that it takes no more than a read for each `run` bytes.
pub(super) fn scattered(spans: &[Span], run: u64) -> Vec<usize> {
    if run == 0 {
        return Vec::new();
    }
    let most = spans.iter().map(|span| span.length).sum::<u64>().div_ceil(run).max(LEAST);
    let goes_on = |one: &Span, next: &Span| match (one.place, next.place) {
        (Some(one), Some(next)) => one.pack == next.pack && one.end() == u64::from(next.offset),
        (None, None) => true,
        _ => false,
    };
    let runs: Vec<&[Span]> = spans.chunk_by(goes_on).collect();
    let mut number = runs.len() as u64;
    if number <= most {
        return Vec::new();
    }
    let bytes = |run: &[Span]| run.iter().map(|span| span.length).sum::<u64>();
    let known =
        runs.iter().enumerate().filter(|(_, run)| run.first().is_some_and(|span| span.place.is_some()));
    let mut shortest: BinaryHeap<_> = known.map(|(at, run)| Reverse((bytes(run), at))).collect();
    let mut is_new: Vec<bool> =
        runs.iter().map(|run| run.first().is_some_and(|span| span.place.is_none())).collect();
    while number > most
        && let Some(Reverse((_, at))) = shortest.pop()
    {
        is_new[at] = true;
        // What is new lies side by side: with one neighbour it is one run, with two all three are.
        let beside = |index: Option<usize>| index.is_some_and(|index| is_new.get(index) == Some(&true));
        number -= u64::from(beside(at.checked_sub(1))) + u64::from(beside(at.checked_add(1)));
    }
    let of_run = |(run, is_new): (&&[Span], bool)| {
        run.iter().map(move |span| is_new && span.place.is_some()).collect::<Vec<_>>()
    };
    let again = runs.iter().zip(is_new).flat_map(of_run);
    again.enumerate().filter_map(|(number, again)| again.then_some(number)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const RUN: u64 = 64 << 10;

    fn known(pack: u128, offset: u32, length: u64) -> Span {
        let place = Place { pack: Uuid::from_u128(pack), offset, stored: 1000, length: 8192 };
        Span { length, place: Some(place) }
    }

    fn new(length: u64) -> Span {
        Span { length, place: None }
    }

    fn runs(spans: &[Span], again: &[usize]) -> u64 {
        let after =
            |(number, span): (usize, &Span)| if again.contains(&number) { new(span.length) } else { *span };
        let spans: Vec<Span> = spans.iter().enumerate().map(after).collect();
        let breaks = spans.windows(2).filter(|pair| match (pair[0].place, pair[1].place) {
            (Some(one), Some(next)) => one.pack != next.pack || one.end() != u64::from(next.offset),
            (None, None) => false,
            _ => true,
        });
        breaks.count() as u64 + 1
    }

    #[test]
    fn what_lies_together_stays() {
        let together: Vec<Span> = (0..100).map(|n| known(1, n * 1000, 8192)).collect();
        assert!(scattered(&together, RUN).is_empty());
        assert!(scattered(&[new(10), known(1, 0, 10)], RUN).is_empty());
        assert!(scattered(&[], RUN).is_empty());
    }

    #[test]
    fn the_shortest_runs_are_stored_again() {
        // Long runs, and between them short ones out of elsewhere.
        let mut spans = Vec::new();
        for n in 0..20_u32 {
            spans.extend((0..8).map(|k| known(1, n * 100_000 + k * 1000, 16 << 10)));
            spans.extend([
                known(2, n * 5000, 8 << 10),
                known(3, n * 5000, 8 << 10),
                known(4, n * 5000, 8 << 10),
            ]);
        }
        let again = scattered(&spans, RUN);
        assert!(again.iter().all(|number| number % 11 >= 8), "a long run is stored again: {again:?}");
        assert!(!again.is_empty());
    }

    proptest! {
        #[test]
        fn reads_are_bounded_whatever_is_known(
            spans in proptest::collection::vec((0..3_u128, 0..5_u32, 1..100_000_u64, any::<bool>()), 0..60),
        ) {
            let span = |(pack, at, length, is_known)| if is_known { known(pack, at * 1000, length) } else { new(length) };
            let spans: Vec<Span> = spans.into_iter().map(span).collect();
            let again = scattered(&spans, RUN);
            let total: u64 = spans.iter().map(|span| span.length).sum();
            prop_assert!(spans.is_empty() || runs(&spans, &again) <= total.div_ceil(RUN).max(LEAST));
            prop_assert!(again.iter().all(|&number| spans[number].place.is_some()));
        }
    }
}
