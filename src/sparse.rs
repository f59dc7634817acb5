//! [`SparseWriter`]: writes what is not zero.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, fallocate};

/// Blocks of zeros that are left out: the block of file systems and of memory.
const BLOCK: usize = 4096;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is under the zeros that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// A new file: zeros.
    Zeros,
    /// A device: whatever was there.
    Unknown,
}

/// Writes a disk in order, and leaves out its zeros.
#[derive(Debug)]
pub struct SparseWriter<'a> {
    file: &'a File,
    ground: Ground,
    position: u64,
    /// Zeros before `position` that were not made yet, on unknown ground.
    zeros: Range<u64>,
    can_punch: bool,
}

impl<'a> SparseWriter<'a> {
    /// Begins at the first byte of a file.
    #[must_use]
    pub fn new(file: &'a File, ground: Ground) -> Self {
        Self { file, ground, position: 0, zeros: 0..0, can_punch: true }
    }

    /// Writes the next bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let zero = run(bytes, self.position, true);
            if zero > 0 {
                if self.zeros.end != self.position {
                    self.zeros = self.position..self.position;
                }
                self.zeros.end += zero as u64;
            }
            let data = run(&bytes[zero..], self.position + zero as u64, false);
            if data > 0 {
                self.make_zeros()?;
                self.file.write_all_at(&bytes[zero..zero + data], self.position + zero as u64)?;
            }
            self.position += (zero + data) as u64;
            bytes = &bytes[zero + data..];
        }
        Ok(())
    }

    /// Makes the last zeros; the file is complete then.
    pub fn finish(mut self) -> io::Result<u64> {
        self.make_zeros()?;
        Ok(self.position)
    }

    fn make_zeros(&mut self) -> io::Result<()> {
        let zeros = std::mem::replace(&mut self.zeros, 0..0);
        if zeros.is_empty() || self.ground == Ground::Zeros {
            return Ok(());
        }
        if self.can_punch {
            // On a device this discards, and promises that zeros are read afterwards.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if fallocate(self.file, flags, zeros.start, zeros.end - zeros.start).is_ok() {
                return Ok(());
            }
            self.can_punch = false;
        }
        let mut position = zeros.start;
        while position < zeros.end {
            let length = usize::try_from(zeros.end - position).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_all_at(&ZEROS[..length], position)?;
            position += length as u64;
        }
        Ok(())
    }
}

/// How many of the first bytes are in blocks that are zero, or that are not; `position` says where blocks begin.
fn run(bytes: &[u8], position: u64, zero: bool) -> usize {
    let mut length = 0;
    while length < bytes.len() {
        let into = usize::try_from((position + length as u64) % BLOCK as u64).unwrap_or(0);
        let block = &bytes[length..bytes.len().min(length + BLOCK - into)];
        if (*block == ZEROS[..block.len()]) != zero {
            break;
        }
        length += block.len();
    }
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            (1..20_000usize).prop_map(|length| vec![0; length]),
            prop::collection::vec(any::<u8>(), 1..9000),
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    fn write(ground: Ground, file: &File, disk: &[u8], piece: usize) {
        let mut writer = SparseWriter::new(file, ground);
        for bytes in disk.chunks(piece) {
            writer.write(bytes).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), disk.len() as u64);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(disk in disk(), piece in 1..30_000usize) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("disk");
            let file = File::create(&path).unwrap();
            file.set_len(disk.len() as u64).unwrap();
            write(Ground::Zeros, &file, &disk, piece);
            prop_assert_eq!(std::fs::read(&path).unwrap(), disk);
        }

        #[test]
        fn what_was_there_before_does_not_show(disk in disk(), piece in 1..30_000usize) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("disk");
            std::fs::write(&path, vec![0xaa; disk.len()]).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            write(Ground::Unknown, &file, &disk, piece);
            prop_assert_eq!(std::fs::read(&path).unwrap(), disk);
        }
    }

    #[test]
    fn zeros_take_no_space() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("disk")).unwrap();
        file.set_len(64 << 20).unwrap();
        let mut disk = vec![0; 64 << 20];
        disk[10 << 20] = 1;
        write(Ground::Zeros, &file, &disk, 256 << 10);
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
