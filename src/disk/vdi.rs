//! VDI, `VirtualBox`'s format, version 1.1: a header, a map of blocks, the blocks.

use std::ops::Range;

use super::fields::{Fields, le32s};
use super::inspect::{Inspect, Table, Terms};
use super::{Depth, Disk, Format, Refusal};

const FORMAT: Format = Format::Vdi;
/// The only block size that QEMU, and with it every importer, reads.
const BLOCK_SIZE: u64 = 1 << 20;
/// Entries of the map from here on stand for no block: never written, or zeros.
const NO_BLOCK: u32 = 0xffff_fffe;

/// Whether an image that begins with `head` is a VDI. What comes before the signature is free text.
pub(super) fn is_vdi(head: &[u8]) -> bool {
    head.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe])
}

/// A VDI.
#[derive(Debug)]
pub(super) struct Vdi {
    disk: Disk,
    blocks: u32,
    data: u64,
    map: Table,
    needs: u64,
}

impl Vdi {
    /// The image that begins with `head`.
    pub(super) fn open(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        let fields = Fields::new(FORMAT, head);
        let version = fields.le32(0x44)?;
        if version != 0x0001_0001 {
            return Err(Refusal::unsupported(
                FORMAT,
                format!("version {}.{}", version >> 16, version & 0xffff),
            ));
        }
        let kind = fields.le32(0x4c)?;
        let link: [u8; 16] = fields.array(0x1a8)?;
        let parent: [u8; 16] = fields.array(0x1b8)?;
        if matches!(kind, 3 | 4) || link != [0; 16] || parent != [0; 16] {
            return Err(Refusal::Differencing {
                format: FORMAT,
                parent: format!("{:032x}", u128::from_be_bytes(link)),
            });
        }
        if !matches!(kind, 1 | 2) {
            return Err(Refusal::unsupported(FORMAT, format!("image type {kind}")));
        }
        let map = u64::from(fields.le32(0x154)?);
        let data = u64::from(fields.le32(0x158)?);
        let sector_size = fields.le32(0x168)?;
        let size = fields.le64(0x170)?;
        let block_size = u64::from(fields.le32(0x178)?);
        let blocks = fields.le32(0x180)?;
        let allocated = fields.le32(0x184)?;
        if sector_size != 512 {
            return Err(Refusal::unsupported(FORMAT, format!("sectors of {sector_size} bytes")));
        }
        if block_size != BLOCK_SIZE {
            return Err(Refusal::unsupported(FORMAT, format!("blocks of {block_size} bytes and not 1 MiB")));
        }
        terms.admit(size)?;
        // Some versions of VirtualBox write sizes that are no whole sectors, and QEMU rounds them up.
        let virtual_size = size.checked_next_multiple_of(512).ok_or(Refusal::Empty)?;
        if u64::from(blocks) * BLOCK_SIZE < virtual_size {
            return Err(Refusal::malformed(
                FORMAT,
                format!("a disk of {size} bytes does not fit into {blocks} blocks"),
            ));
        }
        if allocated > blocks {
            return Err(Refusal::malformed(FORMAT, format!("{allocated} of {blocks} blocks are allocated")));
        }
        let map_size = u64::from(blocks) * 4;
        if map % 512 != 0 || data % 512 != 0 || map < 512 || data < map + map_size {
            return Err(Refusal::malformed(
                FORMAT,
                format!(
                    "the map of {blocks} blocks at {map} does not lie between the header and the data at {data}"
                ),
            ));
        }
        let table = match terms.depth {
            Depth::Header => Table::default(),
            Depth::Full => Table::new(map, map_size),
        };
        let disk = Disk { format: FORMAT, virtual_size };
        let mut vdi = Self { disk, blocks, data, map: table, needs: map + map_size };
        vdi.need(allocated);
        Ok(vdi)
    }

    /// The image has at least `count` blocks, all of them whole: whoever writes the last one pads it.
    fn need(&mut self, count: u32) {
        if count > 0 {
            self.needs = self.needs.max(self.data + u64::from(count) * BLOCK_SIZE);
        }
    }
}

impl Inspect for Vdi {
    fn next(&mut self, from: u64) -> Option<Range<u64>> {
        self.map.next(from)
    }

    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        self.map.seen(at + bytes.len() as u64);
        if let Some(last) = le32s(bytes).filter(|entry| *entry < NO_BLOCK).max() {
            if last >= self.blocks {
                return Err(Refusal::malformed(
                    FORMAT,
                    format!("the map names block {last} of {}", self.blocks),
                ));
            }
            self.need(last + 1);
        }
        Ok(())
    }

    fn needs(&self) -> u64 {
        self.needs
    }

    fn finish(&self, _: u64, _: &[u8]) -> Result<Disk, Refusal> {
        Ok(self.disk)
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{self, verdict, with};
    use super::*;

    fn patched(at: usize, bytes: &[u8]) -> Result<Disk, Refusal> {
        verdict(&with(seeds::vdi(), at, bytes), Depth::Full)
    }

    fn is_malformed(at: usize, bytes: &[u8]) -> bool {
        matches!(patched(at, bytes), Err(Refusal::Malformed { format: FORMAT, .. }))
    }

    fn is_unsupported(at: usize, bytes: &[u8]) -> bool {
        matches!(patched(at, bytes), Err(Refusal::Unsupported { format: FORMAT, .. }))
    }

    fn is_truncated(at: usize, bytes: &[u8]) -> bool {
        matches!(patched(at, bytes), Err(Refusal::Truncated { format: FORMAT, .. }))
    }

    #[test]
    fn a_vdi_that_differs_from_a_parent_is_refused() {
        for (at, bytes) in [(0x4c, [4]), (0x4c, [3]), (0x1a8, [1]), (0x1b8, [1])] {
            assert!(matches!(patched(at, &bytes), Err(Refusal::Differencing { .. })), "{at:#x}");
        }
    }

    #[test]
    fn what_no_importer_reads_is_refused() {
        assert!(is_unsupported(0x44, &[0, 0]), "version 1.0");
        assert!(is_unsupported(0x4c, &[5]), "a fifth type");
        assert!(is_unsupported(0x178, &[0, 0, 0x20]), "blocks of 2 MiB");
        assert!(is_unsupported(0x168, &[0, 16]), "sectors of 4 KiB");
    }

    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        assert!(is_malformed(0x180, &[1]), "a block too few");
        assert!(is_malformed(0x184, &[3]), "more blocks than there are");
        assert!(is_malformed(0x154, &[1]), "a map off its place");
        assert!(is_malformed(0x158, &[0, 2]), "data over the map");
        assert!(is_malformed(512, &[2, 0, 0, 0]), "a block that is not there");
        assert!(matches!(patched(0x170, &[0xff; 8]), Err(Refusal::VirtualSizeTooLarge { .. })));
    }

    #[test]
    fn blocks_that_are_stored_must_be_there() {
        assert!(is_truncated(0x184, &[2]));
        assert!(is_truncated(512, &[1, 0, 0, 0]));
        assert!(patched(512, &[0xfe, 0xff, 0xff, 0xff]).is_ok());
    }

    #[test]
    fn a_size_of_no_whole_sectors_is_rounded_up() {
        let disk = Disk { format: FORMAT, virtual_size: (1 << 20) + 512 };
        assert_eq!(patched(0x170, &[1, 0, 0x10]), Ok(disk));
    }
}
