//! [`Expander`]: reads what is inside a compressed stream, within limits.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::codec::{Codec, Complaint, Progress};
use super::{Compression, Limits, Refusal};

/// Bytes that must have come out before the ratio is judged.
const RATIO_FROM: u64 = 1 << 30;
/// Steps in a row that may bring nothing although there is input: decoders need one or two at the seams.
const IDLE_STEPS: u32 = 16;

/// A reader of expanded bytes. Streams that follow each other are read as one.
///
/// It ends only where the compressed stream does: one that stops early is an error and never a short success. What
/// it refuses it refuses by an [`io::Error`] with a [`Refusal`] inside; errors of the reader below come through
/// unchanged, and reading may go on after them.
pub struct Expander<R> {
    reader: R,
    codec: Codec,
    compression: Compression,
    limits: Limits,
    consumed: u64,
    produced: u64,
    refused: Option<Refusal>,
}

impl<R: BufRead + Send> Expander<R> {
    /// Expands what `reader` reads. Streams of several xz blocks are expanded by up to `threads` threads, which hold
    /// up to 160 MiB each and 1 GiB together; all else takes one, and at most 1 GiB (xz) or 128 MiB (zstd).
    pub fn new(compression: Compression, reader: R, limits: Limits, threads: u32) -> io::Result<Self> {
        let codec = Codec::new(compression, threads)?;
        Ok(Self { reader, codec, compression, limits, consumed: 0, produced: 0, refused: None })
    }

    /// Compressed bytes that were used up so far.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The reader below, wherever it stands.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// Counts what a step brought, and holds it against the limits.
    fn count(&mut self, progress: Progress) -> Result<(), Refusal> {
        self.consumed = self.consumed.saturating_add(progress.consumed as u64);
        self.produced = self.produced.saturating_add(progress.produced as u64);
        if self.produced > self.limits.expanded_size {
            return Err(Refusal::ExpandedTooLarge { limit: self.limits.expanded_size });
        }
        let ratio = self.produced / self.consumed.max(1);
        if self.produced > RATIO_FROM && ratio > self.limits.ratio {
            return Err(Refusal::RatioTooHigh { ratio, limit: self.limits.ratio });
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) -> io::Error {
        self.refused = Some(refusal.clone());
        io::Error::other(refusal)
    }

    fn corrupt(&mut self, reason: &str) -> io::Error {
        self.refuse(Refusal::Corrupt { compression: self.compression, reason: reason.to_owned() })
    }
}

impl<R: BufRead + Send> Read for Expander<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if let Some(refusal) = &self.refused {
            return Err(io::Error::other(refusal.clone()));
        }
        if output.is_empty() {
            return Ok(0);
        }
        let mut idle = 0;
        loop {
            let input = self.reader.fill_buf()?;
            let last = input.is_empty();
            if last && self.codec.may_end() {
                return Ok(0);
            }
            let step = self.codec.step(input, output, last);
            let progress = match step {
                Ok(progress) => progress,
                Err(Complaint::Corrupt(reason)) => return Err(self.corrupt(&reason)),
                Err(Complaint::Memory(limit)) => {
                    let compression = self.compression;
                    return Err(self.refuse(Refusal::WindowTooLarge { compression, limit }));
                }
            };
            self.reader.consume(progress.consumed);
            if let Err(refusal) = self.count(progress) {
                return Err(self.refuse(refusal));
            }
            if progress.produced > 0 {
                return Ok(progress.produced);
            }
            idle = if progress.consumed > 0 { 0 } else { idle + 1 };
            if last && idle > 1 && !self.codec.may_end() {
                return Err(self.corrupt("it ends early"));
            }
            if idle > IDLE_STEPS {
                return Err(self.corrupt("it does not go on"));
            }
        }
    }
}

impl<R> fmt::Debug for Expander<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expander")
            .field("compression", &self.compression)
            .field("consumed", &self.consumed)
            .field("produced", &self.produced)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::super::squeeze::{ALL, expand, sample, squeeze, squeeze_blocks};
    use super::*;

    fn refusal(error: &io::Error) -> &Refusal {
        error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap()
    }

    #[test]
    fn it_can_be_handed_to_another_thread() {
        fn check<T: Send>() {}
        check::<Expander<BufReader<std::fs::File>>>();
    }

    fn expanded(compression: Compression, stream: &[u8]) -> Vec<u8> {
        expand(compression, stream, Limits::default()).unwrap()
    }

    fn is_corrupt(compression: Compression, stream: &[u8]) -> bool {
        let error = expand(compression, stream, Limits::default()).unwrap_err();
        matches!(refusal(&error), Refusal::Corrupt { compression: found, .. } if *found == compression)
    }

    #[test]
    fn streams_that_follow_each_other_are_read_as_one() {
        let bytes = sample(70_000);
        for compression in ALL {
            let one = squeeze(compression, &bytes);
            let empty = squeeze(compression, &[]);
            assert_eq!(Compression::detect(&one), compression);
            assert_eq!(Compression::detect(&empty), compression);
            assert_eq!(expanded(compression, &one), bytes);
            assert_eq!(expanded(compression, &empty), Vec::<u8>::new());
            let three = [one.as_slice(), &empty, &one].concat();
            assert_eq!(expanded(compression, &three), [bytes.as_slice(), &bytes].concat());
        }
        assert_eq!(expanded(Compression::None, &bytes), bytes);
    }

    #[test]
    fn a_stream_is_read_through_small_buffers() {
        let bytes = sample(5000);
        for compression in ALL {
            let stream = squeeze(compression, &bytes);
            let reader = BufReader::with_capacity(1, stream.as_slice());
            let mut expander = Expander::new(compression, reader, Limits::default(), 1).unwrap();
            let mut found = Vec::new();
            let mut buffer = [0; 3];
            loop {
                match expander.read(&mut buffer).unwrap() {
                    0 => break,
                    count => found.extend_from_slice(&buffer[..count]),
                }
            }
            assert_eq!(found, bytes, "{compression}");
            assert_eq!(expander.consumed(), stream.len() as u64);
        }
    }

    #[test]
    fn padding_is_taken_where_the_format_knows_it() {
        let bytes = sample(1000);
        let padded = |compression, zeros| [squeeze(compression, &bytes), vec![0; zeros]].concat();
        assert_eq!(expanded(Compression::Gzip, &padded(Compression::Gzip, 700)), bytes);
        assert_eq!(expanded(Compression::Xz, &padded(Compression::Xz, 8)), bytes);
        assert!(is_corrupt(Compression::Xz, &padded(Compression::Xz, 7)));
        assert!(is_corrupt(Compression::Zstd, &padded(Compression::Zstd, 4)));
        let between = [padded(Compression::Xz, 4), squeeze(Compression::Xz, &bytes)].concat();
        assert_eq!(expanded(Compression::Xz, &between), [bytes.as_slice(), &bytes].concat());
        for compression in ALL {
            assert!(is_corrupt(compression, &[squeeze(compression, &bytes), b"garbage".to_vec()].concat()));
        }
    }

    #[test]
    fn a_stream_of_many_blocks_is_expanded_by_many_threads() {
        let bytes = sample(1_000_000);
        let stream = squeeze_blocks(&bytes, 100_000);
        for threads in [0, 1, 4, u32::MAX] {
            let limits = Limits::default();
            let mut expander = Expander::new(Compression::Xz, stream.as_slice(), limits, threads).unwrap();
            let mut found = Vec::new();
            expander.read_to_end(&mut found).unwrap();
            assert!(found == bytes, "{threads} threads");
        }
    }

    #[test]
    fn a_zstd_stream_may_begin_with_a_frame_to_be_skipped() {
        let mut stream = b"\x50\x2a\x4d\x18\x04\0\0\0skip".to_vec();
        stream.extend(squeeze(Compression::Zstd, b"disk"));
        assert_eq!(expanded(Compression::detect(&stream), &stream), b"disk");
    }

    #[test]
    fn a_window_that_is_too_large_is_refused() {
        // A frame of one raw block, with a window of 2 GiB.
        let stream = b"\x28\xb5\x2f\xfd\0\xa8\x09\0\0a";
        let error = expand(Compression::Zstd, stream, Limits::default()).unwrap_err();
        assert!(matches!(refusal(&error), Refusal::WindowTooLarge { .. }), "{error}");
    }

    #[test]
    fn no_more_comes_out_than_allowed() {
        let bytes = sample(10_000);
        for compression in [Compression::None].into_iter().chain(ALL) {
            let stream = squeeze(compression, &bytes);
            let limits = |expanded_size| Limits { expanded_size, ..Limits::default() };
            assert_eq!(expand(compression, &stream, limits(10_000)).unwrap(), bytes);
            let error = expand(compression, &stream, limits(9999)).unwrap_err();
            assert_eq!(*refusal(&error), Refusal::ExpandedTooLarge { limit: 9999 });
        }
    }

    #[test]
    fn a_stream_that_expands_without_measure_is_refused_after_a_gigabyte() {
        let bomb = squeeze(Compression::Zstd, &vec![0; 16 << 20]).repeat(70);
        let reader = bomb.as_slice();
        let mut expander = Expander::new(Compression::Zstd, reader, Limits::default(), 1).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        let error = loop {
            match expander.read(&mut buffer) {
                Ok(count) => total += count,
                Err(error) => break error,
            }
        };
        assert!((1 << 30..(1 << 30) + (2 << 20)).contains(&total), "{total} bytes came out");
        assert!(matches!(refusal(&error), Refusal::RatioTooHigh { limit: 2048, .. }), "{error}");
        let again = expander.read(&mut buffer).unwrap_err();
        assert_eq!(refusal(&again), refusal(&error));
    }

    /// Fails before each piece of a stream.
    struct Faulty<'a> {
        pieces: Vec<&'a [u8]>,
        armed: bool,
    }

    impl Read for Faulty<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.fill_buf()?.read(buffer)
        }
    }

    impl BufRead for Faulty<'_> {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            while self.pieces.last().is_some_and(|piece| piece.is_empty()) {
                self.pieces.pop();
                self.armed = true;
            }
            if std::mem::take(&mut self.armed) {
                return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the line went dead"));
            }
            Ok(self.pieces.last().copied().unwrap_or_default())
        }

        fn consume(&mut self, count: usize) {
            if let Some(piece) = self.pieces.last_mut() {
                *piece = &piece[count..];
            }
        }
    }

    #[test]
    fn errors_of_the_reader_below_come_through_and_reading_goes_on() {
        let bytes = sample(50_000);
        for compression in [Compression::None].into_iter().chain(ALL) {
            let stream = squeeze(compression, &bytes);
            let pieces: Vec<_> = stream.chunks(stream.len() / 5).rev().collect();
            let faults = pieces.len() + 1;
            let reader = Faulty { pieces, armed: true };
            let mut expander = Expander::new(compression, reader, Limits::default(), 2).unwrap();
            let mut found = Vec::new();
            let mut seen = 0;
            while let Err(error) = expander.read_to_end(&mut found) {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert_eq!(error.get_ref().unwrap().to_string(), "the line went dead");
                seen += 1;
            }
            assert!(found == bytes, "{compression}");
            assert_eq!(seen, faults, "{compression}");
        }
    }
}
