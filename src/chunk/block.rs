//! What is known of one block: whether it is zero, and its hash.
//!
//! File systems place data by blocks of 4 KiB, so a disk is only ever cut between two of them: that costs one hash a
//! block in place of one step a byte, and finds the same moved data.

use twox_hash::XxHash3_64;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// A number that looks random, the same for the same bytes on every machine and in every version.
pub(super) fn hash(block: &[u8]) -> u64 {
    XxHash3_64::oneshot(block)
}

/// Whether there is nothing in these bytes.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Most blocks with something in them have it early; the rest is compared in strides that the compiler widens.
    let (strides, rest) = bytes.as_chunks::<128>();
    strides.iter().all(|stride| stride.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// How the checksum of an ext4 directory block begins: an entry of no file, 12 bytes long, with a name of no bytes and a
/// type that no file has ("The Linux kernel: ext4, directory entries", `struct ext4_dir_entry_tail`).
const DIRECTORY_TAIL: &[u8] = &[0, 0, 0, 0, 12, 0, 0, 0xde];

/// Whether this seems to be a block of an ext4 directory, whose last four bytes are a checksum.
pub(super) fn is_directory(block: &[u8]) -> bool {
    let tail = block.len().checked_sub(DIRECTORY_TAIL.len() + 4).and_then(|at| block.get(at..));
    tail.is_some_and(|tail| tail.starts_with(DIRECTORY_TAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_xxh3_for_ever() {
        // Were it another, nothing that is stored would be met again. Both are what xxHash 0.8.4 in C gives.
        assert_eq!(hash(b""), 0x2d06_8005_38d3_94c2);
        let block: Vec<u8> = (0..=255).cycle().take(BLOCK).collect();
        assert_eq!(hash(&block), 0xeb4b_7c37_0787_9151);
    }

    #[test]
    fn one_bit_anywhere_makes_a_block_no_zero_block() {
        for length in [1, 127, 128, 129, BLOCK] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }
}
