//! [`Splitter`]: a blob, as it arrives, as parts with their bytes.
//!
//! A chunk that lies within one piece of the input is a view of it; only those that do not are copied. What is held is
//! less than a chunk and the pieces that it lies in, whatever is sent.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::block::is_zero;
use super::cutter::{Cut, Cutter};
use super::sizes::Sizes;
use super::tar_regions::{Region, TarRegions};

/// A part of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// To be stored once, under its own hash.
    Chunk(Bytes),
    /// So many zeros, which need not be stored.
    Zeros(u64),
    /// Too little for a chunk: what holds an archive together.
    Inline(Bytes),
}

/// Splits one blob.
#[derive(Debug)]
pub struct Splitter {
    regions: TarRegions,
    region: CurrentRegion,
}

/// The region that is passing, and all that has passed of it without becoming a part.
#[derive(Debug)]
struct CurrentRegion {
    sizes: Sizes,
    kind: Region,
    cutter: Cutter,
    /// Bytes of the disk that have passed.
    passed: u64,
    /// Bytes that are inline.
    inline: usize,
    gathered: Gathered,
}

/// Bytes that have come and gone into no part, and the parts that nobody has taken.
#[derive(Debug, Default)]
struct Gathered {
    held: VecDeque<Bytes>,
    zeros: u64,
    parts: Vec<Part>,
}

impl Splitter {
    /// A splitter at the beginning of a blob.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        let region = CurrentRegion {
            sizes,
            kind: Region::Inline,
            cutter: Cutter::new(sizes),
            passed: 0,
            inline: 0,
            gathered: Gathered::default(),
        };
        Self { regions: TarRegions::default(), region }
    }

    /// A splitter that goes on in the middle of a blob, where another one has [`finish`](Self::finish)ed with so many bytes
    /// [`passed`](Self::passed).
    #[must_use]
    pub fn resume(sizes: Sizes, passed: u64) -> Self {
        let region = CurrentRegion {
            sizes,
            kind: Region::Rest,
            cutter: Cutter::resume(sizes, passed),
            passed,
            inline: 0,
            gathered: Gathered::default(),
        };
        Self { regions: TarRegions::rest(), region }
    }

    /// Bytes of the disk that have passed, from where its blocks are counted.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.region.passed
    }

    /// Takes the next bytes of the blob and gives the parts that are now certain.
    #[must_use = "these are parts of the blob"]
    pub fn update(&mut self, bytes: &Bytes) -> Vec<Part> {
        let region = &mut self.region;
        region.gathered.held.push_back(bytes.clone());
        self.regions.update(bytes, |kind, bytes| region.pass(kind, bytes));
        std::mem::take(&mut region.gathered.parts)
    }

    /// Gives the zeros that are certain of a run that may go on, for whoever cannot wait for its end.
    #[must_use = "these are a part of the blob"]
    pub fn zeros_so_far(&mut self) -> Option<Part> {
        let zeros = std::mem::take(&mut self.region.gathered.zeros);
        (zeros > 0).then_some(Part::Zeros(zeros))
    }

    /// Gives what is left: the blob ends here.
    #[must_use = "these are parts of the blob"]
    pub fn finish(mut self) -> Vec<Part> {
        self.regions.finish(|kind, bytes| self.region.pass(kind, bytes));
        self.region.end();
        self.region.gathered.end_zeros();
        self.region.gathered.parts
    }
}

impl CurrentRegion {
    fn pass(&mut self, kind: Region, bytes: &[u8]) {
        if kind != self.kind {
            self.end();
            self.kind = kind;
            self.passed = 0;
        }
        match kind {
            Region::Inline => self.inline += bytes.len(),
            Region::File | Region::Rest => {
                self.passed += bytes.len() as u64;
                self.cutter.update(bytes, |cut| self.gathered.cut(cut));
            }
        }
    }

    fn end(&mut self) {
        let cutter = std::mem::replace(&mut self.cutter, Cutter::new(self.sizes));
        cutter.finish(|cut| self.gathered.cut(cut));
        self.gathered.inline(std::mem::take(&mut self.inline));
    }
}

impl Gathered {
    fn cut(&mut self, cut: Cut) {
        match cut {
            Cut::Chunk(length) => {
                let bytes = self.take(length);
                self.end_zeros();
                self.parts.push(Part::Chunk(bytes));
            }
            Cut::Zeros(length) => {
                self.drop(length);
                self.zeros += length as u64;
            }
        }
    }

    fn inline(&mut self, length: usize) {
        if length == 0 {
            return;
        }
        let bytes = self.take(length);
        if is_zero(&bytes) {
            self.zeros += length as u64;
        } else {
            self.end_zeros();
            self.parts.push(Part::Inline(bytes));
        }
    }

    /// A run of zeros comes in pieces; it is one part.
    fn end_zeros(&mut self) {
        if self.zeros > 0 {
            self.parts.push(Part::Zeros(std::mem::take(&mut self.zeros)));
        }
    }

    /// The next `length` bytes, without a copy where they are in one piece.
    fn take(&mut self, length: usize) -> Bytes {
        if let Some(first) = self.held.front_mut()
            && first.len() >= length
        {
            return first.split_to(length);
        }
        let mut copy = BytesMut::with_capacity(length);
        self.consume(length, |piece| copy.extend_from_slice(&piece));
        copy.freeze()
    }

    fn drop(&mut self, length: usize) {
        self.consume(length, drop);
    }

    fn consume(&mut self, mut length: usize, mut piece: impl FnMut(Bytes)) {
        while length > 0
            && let Some(first) = self.held.front_mut()
        {
            if first.is_empty() {
                self.held.pop_front();
                continue;
            }
            let part = first.split_to(first.len().min(length));
            length -= part.len();
            piece(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tar::Header;

    use super::super::BLOCK;
    use super::*;

    fn sizes() -> Sizes {
        Sizes::new(4 * BLOCK, 8 * BLOCK, 16 * BLOCK, 3 * BLOCK).unwrap()
    }

    fn parts_of(blob: &[u8], lengths: &[usize]) -> Vec<Part> {
        let mut splitter = Splitter::new(sizes());
        let mut rest = Bytes::copy_from_slice(blob);
        let mut parts = Vec::new();
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            parts.extend(splitter.update(&rest.split_to(rest.len().min(*length))));
        }
        parts.extend(splitter.finish());
        parts
    }

    fn parts(blob: &[u8]) -> Vec<Part> {
        parts_of(blob, &[usize::MAX])
    }

    fn blob_of(parts: &[Part]) -> Vec<u8> {
        let bytes = |part: &Part| match part {
            Part::Chunk(bytes) | Part::Inline(bytes) => bytes.to_vec(),
            Part::Zeros(length) => vec![0; usize::try_from(*length).unwrap()],
        };
        parts.iter().flat_map(bytes).collect()
    }

    fn chunks(parts: &[Part]) -> Vec<&Bytes> {
        parts
            .iter()
            .filter_map(|part| if let Part::Chunk(bytes) = part { Some(bytes) } else { None })
            .collect()
    }

    /// Blocks of pseudo-random bytes, with zeros among them.
    fn disk(blocks: u32) -> Vec<u8> {
        let block = |index: u32| match index % 50 {
            0..5 => vec![0; BLOCK],
            _ => (index.wrapping_mul(2_654_435_761) | 1).to_le_bytes().repeat(BLOCK / 4),
        };
        (0..blocks).flat_map(block).collect()
    }

    /// A tar of the disk behind so many folders.
    fn layer(disk: &[u8], folders: usize) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("disk/").unwrap();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_cksum();
        let folders = header.as_bytes().repeat(folders);
        header.set_path("disk/disk.raw").unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(disk.len() as u64);
        header.set_cksum();
        let padding = vec![0; disk.len().next_multiple_of(512) - disk.len() + 1024];
        [&folders[..], header.as_bytes(), disk, &padding].concat()
    }

    #[test]
    fn the_same_disk_has_the_same_chunks_in_every_tar_and_in_none() {
        let disk = disk(1000);
        let alone = parts(&disk);
        for folders in [0, 1, 5] {
            let layer = parts(&layer(&disk, folders));
            assert_eq!(chunks(&layer), chunks(&alone));
            assert!(matches!(&layer[0], Part::Inline(bytes) if bytes.len() == 512 * (folders + 1)));
        }
    }

    #[test]
    fn the_end_of_our_own_layer_is_zeros() {
        let parts = parts(&layer(&disk(1003)[..1003 * BLOCK - 100], 0));
        assert_eq!(parts.last(), Some(&Part::Zeros(100 + 1024)));
    }

    #[test]
    fn zeros_are_one_part_however_many_and_hold_no_memory() {
        let mut splitter = Splitter::new(sizes());
        let piece = Bytes::from(vec![0; 10_000]);
        for _ in 0..1000 {
            assert_eq!(splitter.update(&piece), []);
            let held: usize = splitter.region.gathered.held.iter().map(Bytes::len).sum();
            assert!(held < 10_000 + sizes().zero_run());
        }
        assert_eq!(splitter.finish(), [Part::Zeros(10_000_000)]);
    }

    #[test]
    fn a_splitter_that_goes_on_in_the_middle_cuts_as_the_one_before_would_have() {
        let blob = Bytes::from(layer(&disk(1000), 1));
        let whole = parts(&blob);
        for at in [1500, 2000, 100_000, 1_234_567, blob.len() - 10] {
            let mut first = Splitter::new(sizes());
            let mut parts = first.update(&blob.slice(..at));
            let passed = first.passed();
            parts.extend(first.finish());
            let mut second = Splitter::resume(sizes(), passed);
            parts.extend(second.update(&blob.slice(at..)));
            parts.extend(second.finish());
            assert_eq!(blob_of(&parts), blob, "at {at}");
            let known = chunks(&whole);
            let others = chunks(&parts).into_iter().filter(|chunk| !known.contains(chunk)).count();
            assert!(others < 8, "at {at}: {others} chunks are new");
        }
    }

    #[test]
    fn a_chunk_within_one_piece_is_not_copied() {
        let blob = Bytes::from(disk(1000));
        let mut splitter = Splitter::new(sizes());
        let parts = splitter.update(&blob);
        let inside = blob.as_ptr_range();
        assert!(!chunks(&parts).is_empty());
        assert!(chunks(&parts).iter().all(|chunk| inside.contains(&chunk.as_ptr())));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn parts_are_the_blob_and_do_not_depend_on_how_it_was_sliced(
            lengths in proptest::collection::vec(1_usize..100_000, 1..5),
            folders in 0_usize..200,
            damaged in proptest::option::of(0_usize..2000),
            cut in 0_usize..100_000,
        ) {
            let mut blob = layer(&disk(300), folders);
            if let Some(at) = damaged {
                blob[at] ^= 0x55;
            }
            blob.truncate(blob.len() - cut);
            let parts = parts_of(&blob, &lengths);
            prop_assert!(blob_of(&parts) == blob);
            prop_assert_eq!(parts, self::parts(&blob));
        }
    }
}
