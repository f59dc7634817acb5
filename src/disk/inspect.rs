//! [`Inspect`]: what the module of a format has to know, so that [`Probe`](super::Probe) can do the rest.
//!
//! A format asks for ranges of the image in ascending order and is given exactly those, whole. What it finds out
//! therefore depends on the content alone, and not on the pieces in which the content happened to come.

use std::fmt;
use std::ops::Range;

use super::{Depth, Disk, Limits, Refusal};

/// Bytes that a format may ask for at once, at most. A probe holds no more than that of the body.
pub(super) const PIECE: u64 = 64 * 1024;

/// Bytes at the end of an image that a format is shown at last.
pub(super) const TAIL: usize = 1536;

/// Structures in the body that a format remembers the places of, at most: 8 MiB of them. Beyond, it looks at the
/// headers only.
pub(super) const PLACES: usize = 1 << 20;

/// Knows one format.
pub(super) trait Inspect: fmt::Debug + Send + Sync {
    /// The next range, at `from` or later and of at most [`PIECE`] bytes, that has to be seen. What lies before
    /// `from` has passed and is lost.
    fn next(&mut self, from: u64) -> Option<Range<u64>>;

    /// Takes the range that [`next`](Self::next) asked for, which begins at `at`.
    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal>;

    /// Bytes that the image must have at least, by what was seen so far.
    fn needs(&self) -> u64;

    /// Whether [`finish`](Self::finish) wants to see the last [`TAIL`] bytes.
    fn wants_tail(&self) -> bool {
        false
    }

    /// What the image is, that has `length` bytes and ends in `tail` ([`TAIL`] bytes, or all of a shorter image).
    fn finish(&self, length: u64, tail: &[u8]) -> Result<Disk, Refusal>;
}

/// How an image is to be judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) limits: Limits,
    pub(super) depth: Depth,
}

impl Terms {
    /// Lets a disk of `size` bytes pass, if it is within the limits.
    pub(super) fn admit(&self, size: u64) -> Result<(), Refusal> {
        let limit = self.limits.virtual_size;
        match size {
            0 => Err(Refusal::Empty),
            size if size > limit => Err(Refusal::VirtualSizeTooLarge { size, limit }),
            _ => Ok(()),
        }
    }
}

/// A table that is seen piece by piece.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    rest: Range<u64>,
}

impl Table {
    /// The table at `start`, of `length` bytes.
    pub(super) fn new(start: u64, length: u64) -> Self {
        Self { rest: start..start.saturating_add(length) }
    }

    /// Its next piece; none once it is through, or if its beginning has passed unseen.
    pub(super) fn next(&mut self, from: u64) -> Option<Range<u64>> {
        if self.rest.is_empty() || self.rest.start < from {
            self.rest = 0..0;
            return None;
        }
        let end = self.rest.end.min(self.rest.start.saturating_add(PIECE));
        Some(self.rest.start..end)
    }

    /// The piece that ends at `end` was seen.
    pub(super) fn seen(&mut self, end: u64) {
        self.rest.start = end;
    }
}

/// A table of tables: a first level whose entries say where the tables of the second lie.
#[derive(Debug)]
pub(super) struct Levels {
    first: Table,
    /// Whether the first level is still being read.
    pub(super) in_first: bool,
    /// Where the tables of the second level lie; from the last to the next once the first level is through.
    second: Vec<u64>,
    current: Table,
    size: u64,
}

impl Levels {
    /// A first level at `start`, of `length` bytes, and tables of `size` bytes each below it.
    pub(super) fn new(start: u64, length: u64, size: u64) -> Self {
        let first = Table::new(start, length);
        Self { first, in_first: true, second: Vec::new(), current: Table::default(), size }
    }

    /// Remembers a table of the second level.
    pub(super) fn add(&mut self, place: u64) {
        if self.second.len() < PLACES {
            self.second.push(place);
        }
    }

    /// The next piece of either level. Tables that lie before the first level have passed, and are left out.
    pub(super) fn next(&mut self, from: u64) -> Option<Range<u64>> {
        if self.in_first {
            if let Some(piece) = self.first.next(from) {
                return Some(piece);
            }
            self.in_first = false;
            self.second.sort_unstable_by(|a, b| b.cmp(a));
            self.second.dedup();
        }
        loop {
            if let Some(piece) = self.current.next(from) {
                return Some(piece);
            }
            self.current = Table::new(self.second.pop()?, self.size);
        }
    }

    /// The piece that ends at `end` was seen.
    pub(super) fn seen(&mut self, end: u64) {
        if self.in_first { self.first.seen(end) } else { self.current.seen(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_asked_for_in_pieces() {
        let mut table = Table::new(100, PIECE + 8);
        assert_eq!(table.next(0), Some(100..100 + PIECE));
        table.seen(100 + PIECE);
        assert_eq!(table.next(100 + PIECE), Some(100 + PIECE..108 + PIECE));
        table.seen(108 + PIECE);
        assert_eq!(table.next(108 + PIECE), None);
    }

    #[test]
    fn a_table_that_has_passed_is_left_out() {
        assert_eq!(Table::new(100, 8).next(101), None);
    }

    #[test]
    fn tables_of_the_second_level_come_in_the_order_of_the_file_and_once() {
        let mut levels = Levels::new(0, 8, 16);
        assert_eq!(levels.next(0), Some(0..8));
        for place in [64, 32, 4, 64] {
            levels.add(place);
        }
        levels.seen(8);
        assert_eq!(levels.next(8), Some(32..48));
        levels.seen(48);
        assert_eq!(levels.next(48), Some(64..80));
        levels.seen(80);
        assert_eq!(levels.next(80), None);
    }
}
