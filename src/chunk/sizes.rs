//! [`Sizes`]: how large chunks are.
//!
//! Chosen by measurement: five versions of a Debian system of 1.1 GB (released; security updates; other packages; twice 5% of
//! the files edited), each as a new file system or changed in place. New bytes of versions 2 to 5 together in MB, as they are
//! and with zstd at level 1; memory of an index with 14 bytes a chunk, for 1 TB of chunks:
//!
//! | cutter (KiB: least, average, most) | new ext4 | the same, zstd | new xfs | xfs in place | random writes | index |
//! |---|--:|--:|--:|--:|--:|--:|
//! | fixed 4 (the floor) | 421 | 151 | 422 | 337 | 8 | 4021 MB |
//! | fixed 64 | 3186 | 1085 | 4450 | 609 | 123 | 251 MB |
//! | `FastCDC` 64 | 1452 | 442 | 1124 | 657 | 201 | 170 MB |
//! | blocks by hash, 16/64/256 | 1243 | 394 | 1005 | 572 | 191 | 232 MB |
//! | blocks by hash and ends of files, 16/64/128 | 788 | 245 | | | | 427 MB |
//! | blocks by hash and ends of files, 8/96/128 | 641 | 197 | | 417 | 147 | 473 MB |
//! | blocks by hash and ends of files, 8/64/256 | 630 | 193 | 558 | 414 | 151 | 510 MB |
//!
//! What halves the cost is to end a chunk where a file ends: the rest of its last block is zeros. Behind a block of an ext4
//! directory, which has a checksum that is another one in every file system, a chunk ends too: measured with ten builds of one
//! system, each with 5% of the files edited, they take 624 MB in place of 707, for 6% more chunks. The same disk as raw and as
//! uncompressed qcow2 costs 0.4% more than one of them.
//!
//! With all of that, MB that the first version and the next two take with zstd, of a Debian with 1.07 GB of files: rebuilt with 5%
//! of the files edited, and in place with 4 KiB written at a hundred places and 3 MB added to logs:
//!
//! | least, average, most | first | rebuilt | rebuilt | in place | in place | chunks |
//! |---|--:|--:|--:|--:|--:|--:|
//! | 8/96/128 | 415.7 | 26.4 | 14.1 | 4.39 | 4.64 | 33371 |
//! | **8/64/96** | **416.3** | **26.2** | **13.8** | **3.59** | **4.15** | **38424** |
//! | 8/48/64 | 417.2 | 25.8 | 13.5 | 2.99 | 3.35 | 44795 |
//! | 8/32/64 | 417.7 | 25.7 | 13.3 | 2.83 | 2.98 | 52126 |
//! | 4/48/64 | 417.3 | 24.1 | 11.7 | 3.01 | 3.36 | 55378 |
//!
//! Smaller ones gain less than their part of the list and of the index takes.

use super::block::{BLOCK, hash, is_directory, is_zero};

/// How large chunks are, in bytes; every size is in whole blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    min: usize,
    max: usize,
    zero_run: usize,
    /// A block ends a chunk if its hash is not above this.
    threshold: u64,
    /// A block ends a chunk if so many bytes at its end are zero; none does if this is 0.
    tail: usize,
}

/// Sizes that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSizes {
    /// Something that must be some blocks is none, or not whole ones.
    #[error("{what} is {size} bytes: it must be a multiple of {BLOCK} and not zero")]
    NotInBlocks {
        /// Which.
        what: &'static str,
        /// What it is.
        size: usize,
    },
    /// They are in the wrong order.
    #[error("chunks of {min} to {max} bytes cannot have {average} on average")]
    OutOfOrder {
        /// The least.
        min: usize,
        /// The average.
        average: usize,
        /// The most.
        max: usize,
    },
}

impl Sizes {
    /// What DVCR stores with.
    pub const STORED: Self = Self::of(8 << 10, 64 << 10, 96 << 10, 4 * BLOCK);
    /// The zeros behind the end of a file. More of them miss files; fewer take other things for ends, such as the
    /// unused part of an inode.
    const TAIL: usize = 128;

    /// Chunks of `min` to `max` bytes, `average` where only hashes end them, and runs of zeros of `zero_run` bytes or
    /// more left out.
    pub fn new(min: usize, average: usize, max: usize, zero_run: usize) -> Result<Self, InvalidSizes> {
        for (what, size) in [("min", min), ("average", average), ("max", max), ("zero_run", zero_run)] {
            if size == 0 || !size.is_multiple_of(BLOCK) {
                return Err(InvalidSizes::NotInBlocks { what, size });
            }
        }
        if min > average || average > max {
            return Err(InvalidSizes::OutOfOrder { min, average, max });
        }
        Ok(Self::of(min, average, max, zero_run))
    }

    const fn of(min: usize, average: usize, max: usize, zero_run: usize) -> Self {
        // A chunk has `min` blocks and then as many as it takes to meet one that ends it: with chance 1/n, n - 1 more.
        let tries = ((average - min) / BLOCK + 1) as u64;
        Self { min, max, zero_run, threshold: u64::MAX / tries, tail: Self::TAIL }
    }

    /// The same, but blocks end chunks with so many zeros at their end; with 0 only by their hash.
    #[must_use]
    pub const fn with_tail(self, tail: usize) -> Self {
        Self { tail, ..self }
    }

    /// The least bytes of a chunk that its content ended.
    #[must_use]
    pub const fn min(&self) -> usize {
        self.min
    }

    /// The most bytes of a chunk.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.max
    }

    /// The least bytes of a run of zeros that is left out of chunks.
    #[must_use]
    pub const fn zero_run(&self) -> usize {
        self.zero_run
    }

    /// Whether a chunk ends behind this block, however short it is.
    ///
    /// The checksum of a directory is another one in every file system, whatever is in it. With its neighbours in one chunk
    /// it would make that new too: a disk that is built again with nothing changed would cost seven times as much.
    pub(super) fn ends_any_chunk(&self, block: &[u8]) -> bool {
        self.tail > 0 && is_directory(block)
    }

    /// Whether a chunk ends behind this block, as far as the block is concerned.
    pub(super) fn ends_chunk(&self, block: &[u8]) -> bool {
        self.ends_file(block) || hash(block) <= self.threshold
    }

    /// Whether a file seems to end in this block.
    fn ends_file(&self, block: &[u8]) -> bool {
        let tail = block.len().checked_sub(self.tail).and_then(|at| block.get(at..));
        self.tail > 0 && tail.is_some_and(is_zero)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_with_is_valid() {
        let sizes = Sizes::STORED;
        assert_eq!(Sizes::new(sizes.min(), 64 << 10, sizes.max(), sizes.zero_run()), Ok(sizes));
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        assert_eq!(
            Sizes::new(16 << 10, 8 << 10, 256 << 10, BLOCK),
            Err(InvalidSizes::OutOfOrder { min: 16 << 10, average: 8 << 10, max: 256 << 10 })
        );
        assert_eq!(
            Sizes::new(BLOCK, 2 * BLOCK, 3 * BLOCK, 1),
            Err(InvalidSizes::NotInBlocks { what: "zero_run", size: 1 })
        );
        assert!(Sizes::new(0, BLOCK, BLOCK, BLOCK).is_err());
    }

    #[test]
    fn chunks_without_a_choice_are_all_of_one_size() {
        let sizes = Sizes::new(BLOCK, BLOCK, BLOCK, BLOCK).unwrap();
        assert!((1..100).all(|byte| sizes.ends_chunk(&[byte; BLOCK])));
    }

    #[test]
    fn a_file_ends_where_a_block_has_zeros_at_its_end() {
        let sizes = Sizes::new(BLOCK, 1 << 40, 1 << 40, BLOCK).unwrap();
        let mut block = [7; BLOCK];
        assert!(!sizes.ends_chunk(&block));
        block[BLOCK - 127..].fill(0);
        assert!(!sizes.ends_chunk(&block));
        block[BLOCK - 128] = 0;
        assert!(sizes.ends_chunk(&block));
        assert!(!sizes.with_tail(129).ends_chunk(&block));
        assert!(!sizes.with_tail(0).ends_chunk(&block));
    }
}
