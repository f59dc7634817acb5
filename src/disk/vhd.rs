//! VHD, Virtual PC's format: a footer at the end, and for a dynamic disk a copy of it in front, a header, a table of
//! blocks, the blocks.

use std::ops::Range;

use super::fields::{Fields, be32s};
use super::inspect::{Inspect, Table, Terms};
use super::{Depth, Disk, Format, HEAD, Refusal};

const FORMAT: Format = Format::Vhd;
/// How a footer begins.
pub(super) const COOKIE: &[u8] = b"conectix";
/// An entry of the table that stands for no block.
const NO_BLOCK: u32 = 0xffff_ffff;
/// Sectors of the largest geometry. A disk of that many is larger than its geometry can say.
const LARGEST_GEOMETRY: u64 = 65_535 * 16 * 255;
/// Programs that write the true size; all others mean the geometry. The list is QEMU's.
const TRUE_SIZE: [&[u8]; 6] = [b"win ", b"qem2", b"d2v ", b"CTXS", b"tap", b"wa"];

/// What a footer says.
#[derive(Debug)]
pub(super) struct Footer {
    kind: u32,
    header: u64,
    /// Whether its checksum is right.
    sealed: bool,
    /// Bytes of the disk, by the footer's own word.
    pub(super) current_size: u64,
    /// Bytes of the disk, as QEMU gives it to a guest.
    pub(super) virtual_size: u64,
}

impl Footer {
    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields::new(FORMAT, bytes);
        let creator = fields.slice(28, 4)?;
        let current_size = fields.be64(48)?;
        let cylinders = u64::from(fields.be16(56)?);
        let geometry = cylinders * u64::from(fields.byte(58)?) * u64::from(fields.byte(59)?);
        let true_size = TRUE_SIZE.iter().any(|name| creator.starts_with(name));
        let sectors = if true_size || geometry == LARGEST_GEOMETRY { current_size / 512 } else { geometry };
        Ok(Self {
            kind: fields.be32(60)?,
            header: fields.be64(16)?,
            sealed: checksum(&fields)? == fields.be32(64)?,
            current_size,
            virtual_size: sectors * 512,
        })
    }
}

/// The footer of a fixed disk, if `tail` ends in one that is beyond doubt.
pub(super) fn fixed_footer(tail: &[u8]) -> Option<Footer> {
    let bytes = tail.last_chunk::<512>()?;
    if !bytes.starts_with(COOKIE) {
        return None;
    }
    Footer::read(bytes).ok().filter(|footer| footer.sealed && footer.kind == 2)
}

/// The checksum of a footer: its bytes added up, without the checksum itself, and turned over.
fn checksum(fields: &Fields<'_>) -> Result<u32, Refusal> {
    let around = fields.slice(0, 64)?.iter().chain(fields.slice(68, 512 - 68)?);
    Ok(!around.fold(0, |sum, byte| sum + u32::from(*byte)))
}

/// A dynamic VHD. A fixed one has no mark in front, and begins as a raw image.
#[derive(Debug)]
pub(super) struct Vhd {
    disk: Disk,
    /// Bytes of a block, with the bitmap in front of it.
    block: u64,
    table: Table,
    needs: u64,
}

impl Vhd {
    /// The image that begins with `head`.
    pub(super) fn open(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        let footer = Footer::read(head)?;
        if !footer.sealed {
            return Err(Refusal::malformed(FORMAT, "the checksum of its footer is wrong"));
        }
        if !matches!(footer.kind, 3 | 4) {
            return Err(Refusal::unsupported(
                FORMAT,
                format!("disk type {} with a header in front", footer.kind),
            ));
        }
        let at = usize::try_from(footer.header).ok().filter(|at| *at >= 512 && *at <= HEAD - 1024);
        let at = at.ok_or_else(|| {
            Refusal::malformed(FORMAT, format!("its dynamic header cannot lie at {}", footer.header))
        })?;
        let fields = Fields::new(FORMAT, head);
        if fields.slice(at, 8)? != b"cxsparse" {
            return Err(Refusal::malformed(FORMAT, format!("there is no dynamic header at {at}")));
        }
        if footer.kind == 4 {
            let name = fields.slice(at + 64, 512)?;
            let units = name.as_chunks().0.iter().map(|unit| u16::from_be_bytes(*unit));
            let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
            return Err(Refusal::Differencing { format: FORMAT, parent: String::from_utf16_lossy(&units) });
        }
        let table = fields.be64(at + 16)?;
        let entries = u64::from(fields.be32(at + 28)?);
        let block_size = u64::from(fields.be32(at + 32)?);
        terms.admit(footer.virtual_size)?;
        if !block_size.is_power_of_two() || block_size < 512 {
            return Err(Refusal::malformed(FORMAT, format!("blocks cannot have {block_size} bytes")));
        }
        if entries * block_size < footer.virtual_size {
            return Err(Refusal::malformed(
                FORMAT,
                format!("a disk of {} bytes does not fit into {entries} blocks", footer.virtual_size),
            ));
        }
        let table_end = table.checked_add(entries * 4).filter(|_| table >= 512);
        let table_end = table_end
            .ok_or_else(|| Refusal::malformed(FORMAT, format!("its block table cannot lie at {table}")))?;
        Ok(Self {
            disk: Disk { format: FORMAT, virtual_size: footer.virtual_size },
            block: block_size + (block_size / (8 * 512)).next_multiple_of(512),
            table: match terms.depth {
                Depth::Header => Table::default(),
                Depth::Full => Table::new(table, entries * 4),
            },
            needs: table_end,
        })
    }
}

impl Inspect for Vhd {
    fn next(&mut self, from: u64) -> Option<Range<u64>> {
        self.table.next(from)
    }

    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        self.table.seen(at + bytes.len() as u64);
        if let Some(last) = be32s(bytes).filter(|sector| *sector != NO_BLOCK).max() {
            self.needs = self.needs.max(u64::from(last) * 512 + self.block);
        }
        Ok(())
    }

    fn needs(&self) -> u64 {
        self.needs
    }

    fn wants_tail(&self) -> bool {
        true
    }

    fn finish(&self, length: u64, tail: &[u8]) -> Result<Disk, Refusal> {
        // Before 2004 the footer had 511 bytes.
        let found = [512, 511].iter().any(|size| {
            tail.len()
                .checked_sub(*size)
                .and_then(|at| tail.get(at..))
                .is_some_and(|end| end.starts_with(COOKIE))
        });
        if !found {
            let needs = length.saturating_add(512);
            return Err(Refusal::Truncated { format: FORMAT, needs, has: length });
        }
        Ok(self.disk)
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{self, put, verdict, with};
    use super::*;

    const FULL: Depth = Depth::Full;

    /// A fixed disk of 4 KiB, made by `creator` with a geometry of `sectors`.
    fn fixed(creator: [u8; 4], sectors: u8) -> Vec<u8> {
        let mut image = vec![7; 4096];
        image.extend(seeds::vhd_footer(2, creator, 4096, [0, 1, 1, sectors]));
        image
    }

    fn size(image: &[u8]) -> u64 {
        verdict(image, FULL).unwrap().virtual_size
    }

    #[test]
    fn the_creator_decides_between_size_and_geometry() {
        assert_eq!(size(&fixed(*b"win ", 7)), 4096);
        assert_eq!(size(&fixed(*b"wa\0\0", 7)), 4096);
        assert_eq!(size(&fixed(*b"vpc ", 7)), 7 * 512);
        assert_eq!(size(&fixed(*b"vbox", 7)), 7 * 512);
    }

    #[test]
    fn a_disk_of_the_largest_geometry_has_its_true_size() {
        let image = seeds::vhd_footer(2, *b"vpc ", 200 << 30, [0xff, 0xff, 16, 255]);
        assert_eq!(fixed_footer(&image).unwrap().virtual_size, 200 << 30);
    }

    #[test]
    fn data_that_resembles_a_footer_is_raw() {
        let raw = |image: &[u8]| {
            assert_eq!(
                verdict(image, FULL),
                Ok(Disk { format: Format::Raw, virtual_size: image.len() as u64 })
            );
        };
        raw(&with(fixed(*b"win ", 7), 4096 + 64, &[0; 4]));
        let nested = [vec![7; 512], fixed(*b"win ", 7)].concat();
        raw(&nested);
    }

    #[test]
    fn a_fixed_disk_that_lacks_bytes_in_front_of_its_footer_is_cut() {
        let cut = Refusal::Truncated { format: FORMAT, needs: 4608, has: 4108 };
        assert_eq!(verdict(&fixed(*b"win ", 7)[500..], FULL), Err(cut));
    }

    #[test]
    fn a_vhd_that_differs_from_a_parent_is_refused() {
        let mut image = with(seeds::vhd(), 0, &seeds::vhd_footer(4, *b"win ", 8192, [0, 1, 1, 1]));
        put(&mut image, 512 + 64, b"\0b\0a\0s\0e");
        let refusal = Refusal::Differencing { format: FORMAT, parent: "base".to_owned() };
        assert_eq!(verdict(&image, FULL), Err(refusal));
    }

    #[test]
    fn a_dynamic_disk_needs_its_footer_and_its_blocks() {
        let image = seeds::vhd();
        let cut =
            |image: &[u8]| matches!(verdict(image, FULL), Err(Refusal::Truncated { format: FORMAT, .. }));
        assert!(cut(&image[..image.len() - 512]));
        assert!(cut(&with(image.clone(), 1536, &[0, 0, 1, 0])));
        assert!(cut(&with(image.clone(), 512 + 16, &[0, 0, 1])), "a table far away");
        assert!(!cut(&image[..image.len() - 1]), "a footer of 511 bytes is an old one");
    }

    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        for (at, bytes, what) in [
            (16, &[0xff; 8][..], "a changed footer"),
            (512, b"cxsparsf", "no header"),
            (512 + 16, &[0xff; 8], "a table at the end of all bytes"),
            (512 + 28, &[0, 0, 0, 1], "a table too small"),
            (512 + 32, &[0, 0, 0x10, 1], "odd blocks"),
        ] {
            let verdict = verdict(&with(seeds::vhd(), at, bytes), FULL);
            assert!(matches!(verdict, Err(Refusal::Malformed { format: FORMAT, .. })), "{what}: {verdict:?}");
        }
    }
}
