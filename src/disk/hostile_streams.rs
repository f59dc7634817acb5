//! The decoders against streams that were changed or cut: nothing panics, nothing comes out that did not go in, and
//! what ends early is never taken for whole. And the hints about sizes against the same.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;

use super::squeeze::{ALL, expand, sample, squeeze, squeeze_blocks};
use super::{Compression, ExpandedSize, Limits, Step};

const LENGTH: usize = 30_000;

/// A stream of each compression, and one of xz in several blocks.
static STREAMS: LazyLock<Vec<(Compression, Vec<u8>)>> = LazyLock::new(|| {
    let one = ALL.into_iter().map(|compression| (compression, squeeze(compression, &sample(LENGTH))));
    one.chain([(Compression::Xz, squeeze_blocks(&sample(LENGTH), 4096))]).collect()
});

/// Follows the steps, and expects that they end and stay within the stream.
fn hint(compression: Compression, stream: &[u8], expanded_head: &[u8]) -> Step {
    let length = stream.len() as u64;
    let mut size = ExpandedSize::new(compression, length, stream, expanded_head);
    for _ in 0..10_000 {
        let Step::Read(range) = size.step() else { return size.step() };
        assert!(range.start < range.end && range.end <= length, "it asks for {range:?} of {length} bytes");
        assert!(range.end - range.start <= 16 << 20, "it asks for {range:?} at once");
        size.feed(&stream[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
    }
    panic!("the steps do not end");
}

proptest! {
    #[test]
    fn a_changed_stream_is_refused_or_expands_to_the_same(
        index in 0..5_usize,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        near_an_end in any::<bool>(),
    ) {
        let (compression, stream) = &STREAMS[index];
        let mut stream = stream.clone();
        for (at, byte) in changes {
            // Headers and trailers deserve more than their share.
            let at = if near_an_end { at.index(80) } else { at.index(stream.len()) };
            let at = if near_an_end && at >= 40 { stream.len() + 39 - at } else { at };
            stream[at] = byte;
        }
        if let Ok(bytes) = expand(*compression, &stream, Limits::default()) {
            prop_assert!(bytes == sample(LENGTH), "{} bytes came out", bytes.len());
        }
        hint(*compression, &stream, &[]);
    }

    #[test]
    fn a_stream_that_is_cut_is_refused(index in 0..5_usize, at in any::<Index>()) {
        let (compression, stream) = &STREAMS[index];
        let cut = &stream[..at.index(stream.len())];
        prop_assert!(expand(*compression, cut, Limits::default()).is_err());
        hint(*compression, cut, &[]);
    }

    #[test]
    fn noise_is_refused(
        index in 0..5_usize,
        keep in 0..40_usize,
        noise in prop::collection::vec(any::<u8>(), 1..500),
        head in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let (compression, stream) = &STREAMS[index];
        let stream = [&stream[..keep], &noise].concat();
        prop_assert!(expand(*compression, &stream, Limits::default()).is_err());
        hint(*compression, &stream, &head);
    }
}

#[test]
fn a_whole_stream_tells_its_size_where_it_can() {
    for (compression, stream) in STREAMS.iter() {
        let expected =
            if *compression == Compression::Bzip2 { Step::Unknown } else { Step::Size(LENGTH as u64) };
        assert_eq!(hint(*compression, stream, &[]), expected, "{compression}");
    }
}
