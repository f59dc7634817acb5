//! VHDX, Hyper-V's format: two headers, two tables of regions, and among the regions the metadata that tells the
//! size and the table (BAT) that says where each block lies. The two may come in either order.

use std::ops::Range;

use super::fields::{Fields, le64s};
use super::inspect::{Inspect, Table, Terms};
use super::vhdx_metadata::{self as metadata, Item, Regions};
use super::{Depth, Disk, Format, Refusal};

const FORMAT: Format = Format::Vhdx;
/// How an image begins.
pub(super) const SIGNATURE: &[u8] = b"vhdxfile";
const MIB: u64 = 1 << 20;
/// The state of a block that is stored, whole.
const PRESENT: u64 = 6;

/// A VHDX.
#[derive(Debug)]
pub(super) struct Vhdx {
    terms: Terms,
    regions: Regions,
    /// The table of metadata, until it has passed.
    table: Table,
    /// The items that have not passed yet, in the order of the file.
    items: Vec<Item>,
    bat: Table,
    /// Where the last block that is stored begins.
    last_block: Option<u64>,
    block_size: Option<u64>,
    virtual_size: Option<u64>,
    sector_size: Option<u32>,
    needs: u64,
}

impl Vhdx {
    /// The image that begins with `head`.
    pub(super) fn open(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        metadata::check_headers(head)?;
        let regions = metadata::regions(head)?;
        let mut needs = 0;
        for (place, length) in [regions.bat, regions.metadata] {
            let end = place.checked_add(length).filter(|_| place >= MIB && place % MIB == 0);
            needs = needs.max(end.ok_or_else(|| {
                Refusal::malformed(FORMAT, format!("a region of {length} bytes cannot lie at {place}"))
            })?);
        }
        let bat = match terms.depth {
            Depth::Header => Table::default(),
            Depth::Full => Table::new(regions.bat.0, regions.bat.1),
        };
        Ok(Self {
            terms,
            regions,
            table: Table::new(regions.metadata.0, metadata::TABLE),
            items: Vec::new(),
            bat,
            last_block: None,
            block_size: None,
            virtual_size: None,
            sector_size: None,
            needs,
        })
    }

    /// Where an item lies.
    fn place(&self, item: Item) -> Range<u64> {
        let start = self.regions.metadata.0.saturating_add(item.place);
        let length = if item.id == metadata::SECTOR_SIZE { 4 } else { 8 };
        start..start.saturating_add(length)
    }

    fn take_item(&mut self, item: Item, bytes: &[u8]) -> Result<(), Refusal> {
        let fields = Fields::new(FORMAT, bytes);
        match item.id {
            metadata::FILE_PARAMETERS => {
                let size = u64::from(fields.le32(0)?);
                if fields.le32(4)? & 2 != 0 {
                    return Err(Refusal::Differencing {
                        format: FORMAT,
                        parent: "its parent locator".to_owned(),
                    });
                }
                if !size.is_power_of_two() || !(MIB..=256 * MIB).contains(&size) {
                    return Err(Refusal::malformed(FORMAT, format!("blocks cannot have {size} bytes")));
                }
                self.block_size = Some(size);
            }
            metadata::DISK_SIZE => {
                let size = fields.le64(0)?;
                self.terms.admit(size)?;
                self.virtual_size = Some(size);
            }
            _ => {
                let size = fields.le32(0)?;
                if !matches!(size, 512 | 4096) {
                    return Err(Refusal::malformed(FORMAT, format!("sectors cannot have {size} bytes")));
                }
                self.sector_size = Some(size);
            }
        }
        Ok(())
    }

    /// Counts the last block in, once its size is known.
    fn settle(&mut self) {
        if let (Some(block), Some(size)) = (self.last_block, self.block_size) {
            self.needs = self.needs.max(block.saturating_add(size));
        }
    }

    /// Refuses a disk that does not fit into its table.
    fn check_table(&self, block_size: u64, virtual_size: u64, sector_size: u32) -> Result<(), Refusal> {
        // After as many blocks as a bitmap covers comes an entry for the bitmap.
        let chunk = ((u64::from(sector_size) << 23) / block_size).max(1);
        let blocks = virtual_size.div_ceil(block_size);
        let entries = blocks + blocks.saturating_sub(1) / chunk;
        if entries * 8 > self.regions.bat.1 {
            return Err(Refusal::malformed(
                FORMAT,
                format!("a disk of {virtual_size} bytes does not fit into its block table"),
            ));
        }
        Ok(())
    }
}

impl Inspect for Vhdx {
    fn next(&mut self, from: u64) -> Option<Range<u64>> {
        let table = self.table.next(from);
        let item = self.items.first().map(|item| self.place(*item));
        let bat = self.bat.next(from);
        // An item that lies before the end of another structure is never shown, and missed in the end.
        [table, item.filter(|place| place.start >= from), bat]
            .into_iter()
            .flatten()
            .min_by_key(|range| range.start)
    }

    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let end = at + bytes.len() as u64;
        if let Some(item) = self.items.first().copied()
            && self.place(item) == (at..end)
        {
            self.items.remove(0);
            self.take_item(item, bytes)?;
        } else if at == self.regions.metadata.0 {
            self.table = Table::default();
            self.items = metadata::items(bytes)?;
        } else {
            self.bat.seen(end);
            let present = le64s(bytes).filter(|entry| entry & 7 == PRESENT).map(|entry| entry >> 20);
            let last = present.max().map(|megabyte| megabyte * MIB);
            self.last_block = self.last_block.max(last);
        }
        self.settle();
        Ok(())
    }

    fn needs(&self) -> u64 {
        self.needs
    }

    fn finish(&self, _: u64, _: &[u8]) -> Result<Disk, Refusal> {
        let (Some(block_size), Some(virtual_size), Some(sector_size)) =
            (self.block_size, self.virtual_size, self.sector_size)
        else {
            return Err(Refusal::malformed(FORMAT, "its metadata is cut, or lies across other structures"));
        };
        self.check_table(block_size, virtual_size, sector_size)?;
        Ok(Disk { format: FORMAT, virtual_size })
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{self, verdict, with};
    use super::*;

    const METADATA: usize = 1 << 20;
    const ITEMS: usize = METADATA + (64 << 10);
    const BAT: usize = 2 << 20;

    fn patched(at: usize, bytes: &[u8]) -> Result<Disk, Refusal> {
        let mut image = with(seeds::vhdx(), at, bytes);
        seeds::seal(&mut image);
        verdict(&image, Depth::Full)
    }

    fn is_malformed(at: usize, bytes: &[u8]) -> bool {
        matches!(patched(at, bytes), Err(Refusal::Malformed { format: FORMAT, .. }))
    }

    #[test]
    fn a_vhdx_with_a_parent_is_refused() {
        assert!(matches!(patched(ITEMS + 4, &[2]), Err(Refusal::Differencing { .. })));
    }

    #[test]
    fn a_log_must_be_replayed_before_if_the_current_header_tells_of_one() {
        assert!(matches!(patched((128 << 10) + 48, &[1]), Err(Refusal::NeedsRepair { .. })));
        assert!(patched((64 << 10) + 48, &[1]).is_ok(), "the other header is older");
    }

    #[test]
    fn one_broken_header_or_region_table_does_no_harm() {
        for at in [64, 128, 192, 256] {
            let one = with(seeds::vhdx(), (at << 10) + 40, &[1]);
            assert!(verdict(&one, Depth::Full).is_ok(), "at {at} KiB");
            let both = with(one, ((at ^ if at < 192 { 192 } else { 448 }) << 10) + 40, &[1]);
            assert!(matches!(verdict(&both, Depth::Full), Err(Refusal::Malformed { .. })), "at {at} KiB");
        }
    }

    #[test]
    fn metadata_that_contradicts_itself_is_refused() {
        assert!(is_malformed(METADATA, b"x"), "no table");
        assert!(is_malformed(METADATA + 10, &[2]), "an item too few");
        assert!(is_malformed(METADATA + 10, &[0xff, 0xff]), "items without end");
        assert!(is_malformed(METADATA + 32 + 16, &[0; 4]), "an item inside the table");
        assert!(is_malformed(ITEMS, &[1]), "odd blocks");
        assert!(is_malformed(ITEMS + 16, &[1]), "odd sectors");
        assert!(matches!(patched(ITEMS + 8, &[0xff; 8]), Err(Refusal::VirtualSizeTooLarge { .. })));
        assert!(is_malformed(ITEMS + 8 + 5, &[1]), "a disk too large for its table");
    }

    #[test]
    fn regions_must_lie_where_regions_may_lie() {
        for table in [192 << 10, 256 << 10] {
            let image = with(seeds::vhdx(), table + 16 + 16, &[1]);
            let mut other = with(image, (448 << 10) - table + 16 + 16, &[1]);
            seeds::seal(&mut other);
            assert!(matches!(verdict(&other, Depth::Full), Err(Refusal::Malformed { .. })));
        }
    }

    #[test]
    fn blocks_that_are_stored_must_be_there() {
        let far = [6, 0, 0x40, 0, 0, 0, 0, 0];
        assert!(matches!(patched(BAT, &far), Err(Refusal::Truncated { format: FORMAT, .. })));
        assert!(patched(BAT, &[2]).is_ok(), "a block of zeros is nowhere");
    }
}
