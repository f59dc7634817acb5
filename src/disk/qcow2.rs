//! qcow2, QEMU's copy-on-write format: a header, a table of tables (L1), the tables below it (L2) that say where each
//! cluster lies, the clusters.
//!
//! A cluster of data counts as there if its first byte is: QEMU leaves the last cluster of a file unpadded, and
//! `qemu-img check` grants the same. Tables must be whole.

use std::ops::Range;

use super::fields::be64s;
use super::inspect::{Inspect, Levels, PLACES, Terms};
use super::qcow2_header::Header;
use super::{Depth, Disk, Format, Refusal};

const FORMAT: Format = Format::Qcow2;

/// The bits of an entry that give a place in the file.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
/// The bit of an entry that marks a compressed cluster.
const COMPRESSED: u64 = 1 << 62;

/// A qcow2.
#[derive(Debug)]
pub(super) struct Qcow2 {
    header: Header,
    levels: Option<Levels>,
    needs: u64,
}

impl Qcow2 {
    /// The image that begins with `head`.
    pub(super) fn open(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        let header = Header::read(head, terms)?;
        let levels = match terms.depth {
            Depth::Full if header.l1_entries <= PLACES as u64 => {
                Some(Levels::new(header.l1, header.l1_entries * 8, 1 << header.cluster_bits))
            }
            Depth::Full | Depth::Header => None,
        };
        Ok(Self { needs: header.tables_end, header, levels })
    }

    /// The image reaches beyond `place`.
    fn need(&mut self, place: u64) {
        self.needs = self.needs.max(place + 1);
    }

    /// Refuses a place that is not the beginning of a cluster.
    fn aligned(&self, what: &str, place: u64) -> Result<u64, Refusal> {
        if place & ((1 << self.header.cluster_bits) - 1) == 0 {
            Ok(place)
        } else {
            Err(Refusal::malformed(FORMAT, format!("{what} at {place} does not begin a cluster")))
        }
    }

    /// Takes an entry of an L2 table, with the bitmap behind it if entries are extended.
    fn cluster(&mut self, entry: u64, bitmap: Option<u64>) -> Result<(), Refusal> {
        if entry & COMPRESSED != 0 {
            // How many sectors it takes up is rounded up, and may end beyond the file. Its place need not be even
            // the beginning of a sector.
            self.need(entry & ((1 << (62 - (self.header.cluster_bits - 8))) - 1));
            return Ok(());
        }
        let place = entry & PLACE;
        let written = match bitmap {
            // The lower half tells which subclusters are stored.
            Some(bitmap) => bitmap & 0xffff_ffff != 0,
            // The lowest bit says that the cluster reads as zeros, whatever is stored.
            None => self.header.version == 2 || entry & 1 == 0,
        };
        if place != 0 && written {
            let place = self.aligned("a cluster", place)?;
            self.need(place);
        }
        Ok(())
    }
}

impl Inspect for Qcow2 {
    fn next(&mut self, from: u64) -> Option<Range<u64>> {
        self.levels.as_mut()?.next(from)
    }

    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(levels) = &mut self.levels else { return Ok(()) };
        let in_first = levels.in_first;
        levels.seen(at + bytes.len() as u64);
        if in_first {
            for place in be64s(bytes).map(|entry| entry & PLACE).filter(|place| *place != 0) {
                self.aligned("an L2 table", place)?;
                self.need(place + (1 << self.header.cluster_bits) - 1);
                if let Some(levels) = &mut self.levels {
                    levels.add(place);
                }
            }
        } else if self.header.extended {
            for pair in bytes.as_chunks::<16>().0 {
                let mut halves = be64s(pair);
                let (entry, bitmap) = (halves.next().unwrap_or(0), halves.next());
                self.cluster(entry, bitmap)?;
            }
        } else {
            for entry in be64s(bytes) {
                self.cluster(entry, None)?;
            }
        }
        Ok(())
    }

    fn needs(&self) -> u64 {
        self.needs
    }

    fn finish(&self, _: u64, _: &[u8]) -> Result<Disk, Refusal> {
        Ok(Disk { format: FORMAT, virtual_size: self.header.virtual_size })
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{self, verdict, with};
    use super::*;

    /// An image with another first entry in its L2 table.
    fn entry(version: u32, entry: u64) -> Vec<u8> {
        with(seeds::qcow2(version, 12, false), seeds::qcow2_l2(12), &entry.to_be_bytes())
    }

    fn is_malformed(bytes: &[u8]) -> bool {
        matches!(verdict(bytes, Depth::Full), Err(Refusal::Malformed { format: FORMAT, .. }))
    }

    fn is_truncated(bytes: &[u8]) -> bool {
        matches!(verdict(bytes, Depth::Full), Err(Refusal::Truncated { format: FORMAT, .. }))
    }

    #[test]
    fn clusters_that_are_stored_must_be_there() {
        let far = 1 << 40;
        assert!(is_truncated(&entry(3, far)));
        assert!(is_truncated(&entry(3, COMPRESSED | far)));
        assert!(is_malformed(&entry(3, 512)));
        assert!(verdict(&entry(3, far), Depth::Header).is_ok());
    }

    #[test]
    fn clusters_that_read_as_zeros_need_not_be_there() {
        let far = 1 << 40;
        assert!(verdict(&entry(3, far | 1), Depth::Full).is_ok());
        assert!(is_truncated(&entry(2, far | 1)), "version 2 knows no such clusters");
    }

    #[test]
    fn a_compressed_cluster_may_end_beyond_the_file() {
        let last = seeds::qcow2(3, 12, false).len() as u64 - 1;
        let sectors = 7 << (62 - (12 - 8));
        assert!(verdict(&entry(3, COMPRESSED | sectors | last), Depth::Full).is_ok());
        assert!(is_truncated(&entry(3, COMPRESSED | (last + 1))));
    }

    #[test]
    fn an_extended_cluster_is_stored_if_one_of_its_parts_is() {
        let image = |bitmap: u64| {
            let image = with(seeds::qcow2(3, 14, true), seeds::qcow2_l2(14), &(1_u64 << 40).to_be_bytes());
            with(image, seeds::qcow2_l2(14) + 8, &bitmap.to_be_bytes())
        };
        assert!(is_truncated(&image(1 << 31)));
        assert!(verdict(&image(1 << 32), Depth::Full).is_ok());
    }
}
