//! [`Cutter`]: where the chunks of a disk end, by its content.
//!
//! A chunk ends behind a block that ends in zeros, as the last block of a file does; behind a block of a directory; behind
//! a block whose hash says so; before a run of zeros; or when it is full. So after an edit the chunks are the same again
//! from the next such place on, however far the data behind it moved, as long as it moved by whole blocks; and files that
//! did not change share no chunk with one that did, unless they are small. Runs of zeros are in no chunk; short ones stay
//! in theirs, so that a disk with single zero blocks all over does not become chunks below the least size.
//!
//! Only lengths come out: whoever has the bytes keeps them. Between two calls the cutter holds less than a block.

use super::block::{BLOCK, is_zero};
use super::sizes::Sizes;

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A chunk of this many bytes.
    Chunk(usize),
    /// This many zeros. Two of these in sequence are one run.
    Zeros(usize),
}

/// Finds the cuts of one disk, which begins with the first byte that it is fed.
#[derive(Debug, Clone)]
pub struct Cutter {
    sizes: Sizes,
    /// The beginning of a block.
    partial: Vec<u8>,
    /// Bytes of the block that is next: less than a block where a disk goes on in the middle of one.
    next: usize,
    /// Bytes that have passed since the last cut, without `partial`.
    open: usize,
    /// How many of them, at their end, are zeros.
    zeros: usize,
    /// Whether the last cut was zeros, which then go on.
    in_run: bool,
}

impl Cutter {
    /// A cutter at the beginning of a disk.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        Self::resume(sizes, 0)
    }

    /// A cutter that goes on in a disk of which so many bytes have passed; what it is fed begins with a chunk.
    #[must_use]
    pub fn resume(sizes: Sizes, passed: u64) -> Self {
        // The rest is less than a block.
        let into_block = usize::try_from(passed % BLOCK as u64).unwrap_or(0);
        let next = BLOCK - into_block;
        Self { sizes, partial: Vec::new(), next, open: 0, zeros: 0, in_run: false }
    }

    /// Takes the next bytes and hands on the cuts that are now certain.
    pub fn update(&mut self, mut bytes: &[u8], mut cut: impl FnMut(Cut)) {
        if !self.partial.is_empty() || self.next < BLOCK {
            let (head, rest) = bytes.split_at(bytes.len().min(self.next - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if self.partial.len() < self.next {
                return;
            }
            self.next = BLOCK;
            let mut block = std::mem::take(&mut self.partial);
            self.block(&block, &mut cut);
            block.clear();
            self.partial = block;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        for block in blocks {
            self.block(block, &mut cut);
        }
        self.partial.extend_from_slice(rest);
    }

    /// Hands on what is left: the disk ends here, and with it the last chunk.
    pub fn finish(mut self, mut cut: impl FnMut(Cut)) {
        let rest = self.partial.len();
        if is_zero(&self.partial) {
            if self.in_run && rest > 0 {
                cut(Cut::Zeros(rest));
                return;
            }
            self.zeros += rest;
        } else {
            self.zeros = 0;
        }
        self.open += rest;
        match self.open {
            0 => {}
            open if open == self.zeros => cut(Cut::Zeros(open)),
            open => cut(Cut::Chunk(open)),
        }
    }

    fn block(&mut self, block: &[u8], cut: &mut impl FnMut(Cut)) {
        if is_zero(block) {
            self.zero_block(block.len(), cut);
        } else {
            self.in_run = false;
            self.zeros = 0;
            self.open += block.len();
            let is_long = self.open >= self.sizes.min();
            if self.sizes.ends_any_chunk(block) || (is_long && self.sizes.ends_chunk(block)) {
                cut(Cut::Chunk(std::mem::take(&mut self.open)));
            }
        }
        if self.open >= self.sizes.max() {
            // Zeros at the end may yet become a run: they begin the next chunk.
            let open = std::mem::replace(&mut self.open, self.zeros);
            cut(Cut::Chunk(open - self.zeros));
        }
    }

    fn zero_block(&mut self, length: usize, cut: &mut impl FnMut(Cut)) {
        if self.in_run {
            cut(Cut::Zeros(length));
            return;
        }
        self.open += length;
        self.zeros += length;
        if self.zeros >= self.sizes.zero_run() {
            let open = std::mem::take(&mut self.open);
            let zeros = std::mem::take(&mut self.zeros);
            if open > zeros {
                cut(Cut::Chunk(open - zeros));
            }
            cut(Cut::Zeros(zeros));
            self.in_run = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes() -> Sizes {
        Sizes::new(4 * BLOCK, 8 * BLOCK, 16 * BLOCK, 3 * BLOCK).unwrap()
    }

    /// The cuts of `disk`, fed in slices of `lengths`, again and again; runs of zeros in one.
    fn cuts_of(disk: &[u8], sizes: Sizes, lengths: &[usize]) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut take = |cut| match (cuts.last_mut(), cut) {
            (Some(Cut::Zeros(before)), Cut::Zeros(more)) => *before += more,
            _ => cuts.push(cut),
        };
        let mut cutter = Cutter::new(sizes);
        let mut rest = disk;
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (slice, more) = rest.split_at(rest.len().min(*length));
            cutter.update(slice, &mut take);
            rest = more;
        }
        cutter.finish(&mut take);
        cuts
    }

    fn cuts(disk: &[u8]) -> Vec<Cut> {
        cuts_of(disk, sizes(), &[usize::MAX])
    }

    fn chunks(disk: &[u8]) -> Vec<&[u8]> {
        let mut rest = disk;
        let mut chunks = Vec::new();
        for cut in cuts(disk) {
            let (Cut::Chunk(length) | Cut::Zeros(length)) = cut;
            let (bytes, more) = rest.split_at(length);
            rest = more;
            if let Cut::Chunk(_) = cut {
                chunks.push(bytes);
            }
        }
        chunks
    }

    /// A block of nothing but this number, and of nothing for zero.
    fn block(number: u32) -> Vec<u8> {
        number.to_le_bytes().repeat(BLOCK / 4)
    }

    fn disk(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
        numbers.into_iter().flat_map(block).collect()
    }

    #[test]
    fn a_directory_of_ext4_ends_a_chunk_however_short_it_is() {
        let mut directory = block(1);
        directory[BLOCK - 12..].copy_from_slice(&[0, 0, 0, 0, 12, 0, 0, 0xde, 1, 2, 3, 4]);
        let blocks = [block(2), directory.clone(), directory, block(3), block(4)].concat();
        let lengths: Vec<usize> = chunks(&blocks).iter().map(|chunk| chunk.len() / BLOCK).collect();
        assert_eq!(lengths, [2, 1, 2]);
    }

    /// Blocks, many of them zero, and the beginning of another.
    fn any_disk() -> impl Strategy<Value = Vec<u8>> {
        let run = prop_oneof![
            proptest::collection::vec(1_u32.., 1..20),
            (1_usize..6).prop_map(|length| vec![0; length]),
            (1_usize..40).prop_map(|length| vec![7; length]),
        ];
        let tail =
            prop_oneof![Just(vec![]), Just(vec![0; 100]), Just(vec![1; 100]), Just(vec![0; BLOCK - 1])];
        (proptest::collection::vec(run, 0..10), tail)
            .prop_map(|(runs, tail)| [disk(runs.into_iter().flatten()), tail].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn cuts_do_not_depend_on_how_a_disk_was_sliced(
            disk in any_disk(),
            lengths in proptest::collection::vec(1_usize..3 * BLOCK, 1..5),
        ) {
            prop_assert_eq!(cuts_of(&disk, sizes(), &lengths), cuts(&disk));
        }

        #[test]
        fn cuts_tile_a_disk_and_zeros_are_zeros(disk in any_disk()) {
            let mut at = 0;
            for cut in cuts(&disk) {
                match cut {
                    Cut::Chunk(length) => {
                        prop_assert!(length > 0 && length <= sizes().max());
                        let chunk = &disk[at..at + length];
                        prop_assert!(!is_zero(chunk));
                        at += length;
                    }
                    Cut::Zeros(length) => {
                        prop_assert!(length > 0 && is_zero(&disk[at..at + length]));
                        at += length;
                    }
                }
            }
            prop_assert_eq!(at, disk.len());
        }

        #[test]
        fn no_chunk_holds_a_run_of_zeros(disk in any_disk()) {
            for chunk in chunks(&disk) {
                let run = chunk.chunks_exact(BLOCK).fold((0, 0), |(run, most), block| {
                    let run = if is_zero(block) { run + 1 } else { 0 };
                    (run, most.max(run))
                });
                prop_assert!(run.1 * BLOCK < sizes().zero_run());
            }
        }

        #[test]
        fn a_chunk_is_short_only_before_zeros_or_at_the_end(disk in any_disk()) {
            for pair in cuts(&disk).windows(2) {
                if let [Cut::Chunk(length), Cut::Chunk(_)] = pair {
                    prop_assert!(*length >= sizes().min());
                }
            }
        }

        #[test]
        fn blocks_put_in_or_taken_out_change_only_chunks_nearby(
            seed in any::<u32>(),
            at in 0_u32..600,
            added in 0_u32..40,
            removed in 0_u32..40,
        ) {
            let number = |index: u32| seed.wrapping_add(index).wrapping_mul(2_654_435_761) | 1;
            let before = disk((0..600).map(number));
            let after = disk(
                (0..at).chain(5000..5000 + added).chain((at + removed).min(600)..600).map(number),
            );
            let known: std::collections::HashSet<_> = chunks(&before).into_iter().collect();
            let new: usize = chunks(&after).iter().filter(|chunk| !known.contains(*chunk)).map(|chunk| chunk.len()).sum();
            // What was added, a chunk on either side, and what it takes to fall into step again: a few more.
            prop_assert!(new <= added as usize * BLOCK + 8 * sizes().max(), "{} blocks are new", new / BLOCK);
        }
    }

    #[test]
    fn an_empty_disk_has_no_cuts() {
        assert_eq!(cuts(&[]), []);
    }

    #[test]
    fn a_disk_of_zeros_is_one_run_to_the_last_byte() {
        for length in [1, BLOCK, 2 * BLOCK, 3 * BLOCK, 100 * BLOCK + 1] {
            assert_eq!(cuts(&vec![0; length]), [Cut::Zeros(length)]);
        }
    }

    #[test]
    fn zeros_that_are_too_few_for_a_run_stay_in_their_chunk() {
        assert_eq!(cuts(&disk([7, 0, 0, 7])), [Cut::Chunk(4 * BLOCK)]);
        let cut = [Cut::Chunk(BLOCK), Cut::Zeros(3 * BLOCK), Cut::Chunk(BLOCK)];
        assert_eq!(cuts(&disk([7, 0, 0, 0, 7])), cut);
    }

    #[test]
    fn a_chunk_ends_where_a_file_ends_unless_it_would_be_too_small() {
        let mut last = block(7);
        last[BLOCK - 1000..].fill(0);
        let small = [&last[..], &disk([7; 4])].concat();
        assert_eq!(cuts(&small), [Cut::Chunk(5 * BLOCK)]);
        let large = [&disk([7; 3]), &last[..], &disk([7; 4])].concat();
        assert_eq!(cuts(&large), [Cut::Chunk(4 * BLOCK), Cut::Chunk(4 * BLOCK)]);
    }

    #[test]
    fn a_run_of_zeros_is_left_out_also_where_a_chunk_is_full() {
        let numbers = std::iter::repeat_n(7, 15).chain([0, 0, 0, 7]);
        assert_eq!(cuts(&disk(numbers)), [Cut::Chunk(15 * BLOCK), Cut::Zeros(3 * BLOCK), Cut::Chunk(BLOCK)]);
    }

    #[test]
    fn chunks_have_the_average_size_that_was_asked_for() {
        let disk = disk((1..5000_u32).map(|index| index.wrapping_mul(2_654_435_761)));
        let sizes = Sizes::new(4 * BLOCK, 16 * BLOCK, 1024 * BLOCK, BLOCK).unwrap();
        let average = disk.len() / cuts_of(&disk, sizes, &[usize::MAX]).len() / BLOCK;
        assert!((13..=19).contains(&average), "{average} blocks");
    }

    #[test]
    fn the_cuts_of_a_known_disk_stay_what_they_are() {
        let disk = disk((1..160_u32).map(|index| index.wrapping_mul(2_654_435_761)));
        let blocks: Vec<_> = cuts_of(&disk, Sizes::STORED, &[usize::MAX])
            .into_iter()
            .map(|cut| match cut {
                Cut::Chunk(length) | Cut::Zeros(length) => length / BLOCK,
            })
            .collect();
        assert_eq!(blocks, [8, 14, 9, 24, 19, 24, 7, 24, 17, 6, 6, 1]);
    }
}
