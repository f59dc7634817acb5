//! [`ExpandedSize`]: how large a compressed stream will be, told from its ends.
//!
//! It is a hint. Only an xz index covers all of a stream; the others tell of a part, or of the last digits, and all
//! of them may lie. Whoever expands the stream counts.

use std::ops::Range;

use super::Compression;
use super::xz_index::{self, END};

/// Bytes of the end of a stream that are asked for at first.
const WINDOW: u64 = 4096;
/// Bytes of xz indexes that are read at most, and streams that are walked through.
const INDEX_BUDGET: u64 = 16 << 20;
const STREAMS: u32 = 1024;
/// What the last four bytes of a gzip stream are counted modulo.
const GZIP_MODULUS: u64 = 1 << 32;

/// What has to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These bytes of the compressed stream are needed; hand them to [`ExpandedSize::feed`].
    Read(Range<u64>),
    /// So many bytes should come out.
    Size(u64),
    /// It cannot be told without expanding the stream.
    Unknown,
}

/// How large the expanded stream will be, from its ends, without expanding it.
#[derive(Debug, Clone)]
pub struct ExpandedSize {
    kind: Kind,
    step: Step,
}

#[derive(Debug, Clone)]
enum Kind {
    Settled,
    Xz(Walk),
    Gzip { least: u64, exact: Option<u64> },
}

/// A walk through the streams of an xz file, from the end.
#[derive(Debug, Clone)]
struct Walk {
    /// Where what is left ends.
    end: u64,
    /// Bytes of the index in front of the footer, once that is known.
    index: Option<u64>,
    expanded: u64,
    budget: u64,
    streams: u32,
}

impl ExpandedSize {
    /// For a stream of `length` compressed bytes that begins with `head`, and whose content begins with
    /// `expanded_head` (the first 8 KiB are enough; it may be empty).
    #[must_use]
    pub fn new(compression: Compression, length: u64, head: &[u8], expanded_head: &[u8]) -> Self {
        let settled = |step| Self { kind: Kind::Settled, step };
        match compression {
            Compression::None => settled(Step::Size(length)),
            Compression::Bzip2 => settled(Step::Unknown),
            Compression::Zstd => settled(zstd_size(head, length).map_or(Step::Unknown, Step::Size)),
            Compression::Xz => {
                let walk = Walk { end: length, index: None, expanded: 0, budget: INDEX_BUDGET, streams: 0 };
                Self { step: walk.read_end(), kind: Kind::Xz(walk) }
            }
            // A header, an empty block and a trailer take 20 bytes.
            Compression::Gzip if length < 20 || is_blocked_gzip(head) => settled(Step::Unknown),
            Compression::Gzip => {
                let least = (length / 100 * 99).max(partitions_end(expanded_head).unwrap_or(0));
                let kind = Kind::Gzip { least, exact: gpt_size(expanded_head) };
                Self { kind, step: Step::Read(length - 4..length) }
            }
        }
    }

    /// What has to be done next. It stays the same until [`feed`](Self::feed) is called.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step.clone()
    }

    /// Takes the bytes that [`Step::Read`] asked for: all of them.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Step::Read(range) = &self.step else { return };
        let whole = range.end - range.start == bytes.len() as u64;
        self.step = match &mut self.kind {
            Kind::Xz(walk) if whole => walk.feed(bytes).unwrap_or(Step::Unknown),
            Kind::Gzip { least, exact } if whole => {
                gzip_size(bytes, *least, *exact).map_or(Step::Unknown, Step::Size)
            }
            _ => Step::Unknown,
        };
    }
}

impl Walk {
    fn read_end(&self) -> Step {
        if self.end < 2 * END || !self.end.is_multiple_of(4) {
            return Step::Unknown;
        }
        Step::Read(self.end.saturating_sub(WINDOW)..self.end)
    }

    fn feed(&mut self, bytes: &[u8]) -> Option<Step> {
        match self.index {
            None => self.feed_end(bytes),
            Some(length) => self.feed_index(bytes, length),
        }
    }

    /// Takes the end of what is left: padding, or a footer, and with luck the index in front of it.
    fn feed_end(&mut self, bytes: &[u8]) -> Option<Step> {
        let padding = bytes.iter().rev().take_while(|byte| **byte == 0).count() / 4 * 4;
        if padding > 0 {
            self.budget = self.budget.checked_sub(bytes.len() as u64)?;
            self.end -= padding as u64;
            return Some(self.read_end());
        }
        let (before, footer) = bytes.split_last_chunk::<12>()?;
        let length = xz_index::index_length(footer)?;
        self.budget = self.budget.checked_sub(length)?;
        self.index = Some(length);
        let have = usize::try_from(length).ok()?;
        if let Some(index) = before.len().checked_sub(have).and_then(|at| before.get(at..)) {
            return self.feed_index(index, length);
        }
        let end = self.end - END;
        Some(Step::Read(end.checked_sub(length)?..end))
    }

    fn feed_index(&mut self, index: &[u8], length: u64) -> Option<Step> {
        let totals = xz_index::totals(index)?;
        self.expanded = self.expanded.checked_add(totals.expanded)?;
        let stream = totals.compressed.checked_add(length)?.checked_add(2 * END)?;
        self.end = self.end.checked_sub(stream)?;
        self.index = None;
        self.streams += 1;
        if self.end == 0 {
            return Some(Step::Size(self.expanded));
        }
        (self.streams < STREAMS).then(|| self.read_end())
    }
}

/// What the header of the first zstd frame says, unless more must follow.
fn zstd_size(head: &[u8], length: u64) -> Option<u64> {
    let mut frame = head;
    // Skippable frames come first, each with its length.
    while let [0x50..=0x5f, 0x2a, 0x4d, 0x18, rest @ ..] = frame {
        let (size, rest) = rest.split_first_chunk()?;
        frame = rest.get(usize::try_from(u32::from_le_bytes(*size)).ok()?..)?;
    }
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = frame else { return None };
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let field = rest.get(usize::from(!single) + dictionary..)?;
    let size = match descriptor >> 6 {
        0 if !single => return None,
        0 => u64::from(*field.first()?),
        1 => u64::from(u16::from_le_bytes(*field.first_chunk()?)) + 256,
        2 => u64::from(u32::from_le_bytes(*field.first_chunk()?)),
        _ => u64::from_le_bytes(*field.first_chunk()?),
    };
    // What cannot be compressed grows by less than this; the rest would be other frames.
    let most = size.saturating_add(size / 128).saturating_add(64 * 1024);
    (length <= most).then_some(size)
}

/// The size whose last 32 bits the stream ends in.
fn gzip_size(trailer: &[u8], least: u64, exact: Option<u64>) -> Option<u64> {
    let rest = u64::from(u32::from_le_bytes(*trailer.first_chunk()?));
    if let Some(exact) = exact
        && exact % GZIP_MODULUS == rest
    {
        return Some(exact);
    }
    // Zeros are padding, or the size of an empty member behind others, more often than 4 GiB exactly.
    if rest == 0 {
        return None;
    }
    let rounds = least.saturating_sub(rest).div_ceil(GZIP_MODULUS);
    rest.checked_add(rounds.checked_mul(GZIP_MODULUS)?)
}

/// Whether a gzip stream consists of many small members, as bgzip writes them.
fn is_blocked_gzip(head: &[u8]) -> bool {
    matches!(head, [0x1f, 0x8b, 8, flags, _, _, _, _, _, _, _, _, b'B', b'C', ..] if flags & 4 != 0)
}

/// The size of a disk by its GUID partition table, which tells where the copy of itself lies: at the very end.
fn gpt_size(head: &[u8]) -> Option<u64> {
    [512_u64, 4096].into_iter().find_map(|sector| {
        let header = head.get(usize::try_from(sector).ok()?..)?.strip_prefix(b"EFI PART")?;
        let last = u64::from_le_bytes(*header.get(24..)?.first_chunk()?);
        last.checked_add(1)?.checked_mul(sector)
    })
}

/// Where the last partition of a master boot record ends, in bytes: no disk is smaller.
fn partitions_end(head: &[u8]) -> Option<u64> {
    let sector = head.first_chunk::<512>()?;
    let table = sector.get(446..)?.strip_suffix(&[0x55, 0xaa])?;
    let mut end = 0;
    for partition in table.as_chunks::<16>().0 {
        let [state, _, _, _, kind, _, _, _, s0, s1, s2, s3, n0, n1, n2, n3] = *partition;
        // A boot sector without a table has the same mark at its end; states give it away.
        if state & 0x7f != 0 {
            return None;
        }
        // 0xee stands for a GUID partition table, and is as large as can be.
        if kind != 0 && kind != 0xee {
            let last = u64::from(u32::from_le_bytes([s0, s1, s2, s3]))
                + u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
            end = end.max(last * 512);
        }
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::super::squeeze::{sample, squeeze, squeeze_blocks};
    use super::*;

    /// Follows the steps through a stream; the answer, and how often it read.
    fn follow(compression: Compression, stream: &[u8]) -> (Step, u32) {
        let mut size = ExpandedSize::new(compression, stream.len() as u64, stream, &[]);
        let mut reads = 0;
        while let Step::Read(range) = size.step() {
            size.feed(&stream[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
            reads += 1;
        }
        (size.step(), reads)
    }

    /// The answer for a gzip stream of 1 MiB that ends in `last`.
    fn gzip(length: u64, last: u32, expanded_head: &[u8]) -> Step {
        let mut size = ExpandedSize::new(Compression::Gzip, length, &[0x1f, 0x8b, 8, 0], expanded_head);
        assert_eq!(size.step(), Step::Read(length - 4..length));
        size.feed(&last.to_le_bytes());
        size.step()
    }

    #[test]
    fn an_xz_index_at_the_end_takes_one_look() {
        let stream = squeeze_blocks(&sample(200_000), 10_000);
        assert_eq!(follow(Compression::Xz, &stream), (Step::Size(200_000), 1));
    }

    #[test]
    fn an_index_longer_than_the_window_takes_another() {
        let stream = squeeze_blocks(&vec![0; 8_200_000], 4096);
        assert_eq!(follow(Compression::Xz, &stream), (Step::Size(8_200_000), 2));
    }

    #[test]
    fn xz_streams_and_padding_are_walked_through() {
        let one = squeeze(Compression::Xz, &sample(3000));
        let padding = vec![0; 9000];
        let all = [one.as_slice(), &padding, &one, &one, &padding].concat();
        assert_eq!(follow(Compression::Xz, &all).0, Step::Size(9000));
    }

    #[test]
    fn an_xz_file_that_is_not_whole_is_unknown() {
        let one = squeeze(Compression::Xz, &sample(3000));
        for stream in [&one[4..], &one[..one.len() - 4], &[0; 40], &one[..3], &[]] {
            assert_eq!(follow(Compression::Xz, stream).0, Step::Unknown);
        }
    }

    #[test]
    fn a_zstd_frame_tells_its_size_unless_others_follow() {
        for length in [0, 1, 255, 256, 65_791, 65_792, 1 << 20] {
            let stream = squeeze(Compression::Zstd, &sample(length));
            assert_eq!(follow(Compression::Zstd, &stream).0, Step::Size(length as u64));
        }
        let skipped = [b"\x50\x2a\x4d\x18\x01\0\0\0!".to_vec(), squeeze(Compression::Zstd, b"disk")].concat();
        assert_eq!(follow(Compression::Zstd, &skipped).0, Step::Size(4));
        let many = squeeze(Compression::Zstd, &sample(9000)).repeat(20);
        assert_eq!(follow(Compression::Zstd, &many).0, Step::Unknown);
    }

    #[test]
    fn gzip_tells_the_smallest_size_that_its_length_allows() {
        assert_eq!(gzip(1 << 20, 5 << 20, &[]), Step::Size(5 << 20));
        assert_eq!(gzip(5 << 20, 1 << 20, &[]), Step::Size((1 << 32) + (1 << 20)));
        assert_eq!(gzip(1 << 20, (1 << 20) - 300, &[]), Step::Size((1 << 20) - 300), "incompressible");
        assert_eq!(gzip(1 << 20, 0, &[]), Step::Unknown);
    }

    #[test]
    fn a_partition_table_tells_how_often_gzip_counted_through() {
        let mut head = vec![0; 1024];
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        head[446 + 4] = 0x83;
        head[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
        head[446 + 12..446 + 16].copy_from_slice(&(20_u32 << 21).to_le_bytes());
        assert_eq!(gzip(1 << 20, 1 << 30, &head), Step::Size(21 << 30), "20 GiB from 1 MiB on");

        head[446 + 4] = 0xee;
        head[512..520].copy_from_slice(b"EFI PART");
        head[544..552].copy_from_slice(&((10_u64 << 21) - 1).to_le_bytes());
        assert_eq!(gzip(1 << 20, 2 << 30, &head), Step::Size(10 << 30));
        assert_eq!(gzip(1 << 20, 3 << 30, &head), Step::Size(3 << 30), "a table of another disk");
    }

    #[test]
    fn a_gzip_of_many_members_is_unknown() {
        let head = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0];
        let size = ExpandedSize::new(Compression::Gzip, 1 << 20, &head, &[]);
        assert_eq!(size.step(), Step::Unknown);
    }

    #[test]
    fn a_reader_that_brings_less_learns_nothing() {
        let mut size = ExpandedSize::new(Compression::Gzip, 1 << 20, &[], &[]);
        size.feed(&[1]);
        assert_eq!(size.step(), Step::Unknown);
        size.feed(&[1, 2, 3, 4]);
        assert_eq!(size.step(), Step::Unknown);
    }
}
