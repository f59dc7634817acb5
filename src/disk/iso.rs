//! Optical discs: ISO 9660 and UDF, by the volume recognition sequence that begins at 32 KiB.
//!
//! An ISO that also boots from a USB stick has a partition table in front; it is an ISO all the same, as it is for
//! the machines that boot from it.

use std::ops::Range;

use super::inspect::{Inspect, Terms};
use super::{Disk, Format, Refusal, fields::Fields};

/// Where the sequence begins, in bytes.
const START: usize = 32 * 1024;
/// Bytes from one of its descriptors to the next.
const STEP: usize = 2048;
/// The same, for UDF on a disk with sectors of 4 KiB.
const LARGE_STEP: usize = 4096;
/// Descriptors that are looked at; real discs have less than ten.
const DESCRIPTORS: usize = 32;
/// Sectors that may be missing at the end: a disc that was written track at once ends in up to 150 of padding, and
/// programs that copy it leave them out.
const PADDING: u64 = 150 * 2048;

/// Whether an image that begins with `head` is an optical disc.
pub(super) fn is_iso(head: &[u8]) -> bool {
    let is_mark = |descriptor: &[u8]| {
        matches!(descriptor.get(1..6), Some(b"NSR02" | b"NSR03")) || is_primary_volume(descriptor)
    };
    descriptors(head, STEP).any(is_mark) || descriptors(head, LARGE_STEP).any(is_mark)
}

/// The descriptors of the sequence, from one to the next by `step` bytes.
fn descriptors(head: &[u8], step: usize) -> impl Iterator<Item = &[u8]> {
    (0..DESCRIPTORS).map_while(move |index| head.get(START + index * step..)).take_while(|descriptor| {
        let known: [&[u8]; 7] = [b"CD001", b"CDW02", b"BEA01", b"NSR02", b"NSR03", b"BOOT2", b"TEA01"];
        descriptor.get(1..6).is_some_and(|name| known.contains(&name))
    })
}

fn is_primary_volume(descriptor: &[u8]) -> bool {
    descriptor.starts_with(b"\x01CD001")
}

/// An optical disc.
#[derive(Debug)]
pub(super) struct Iso {
    needs: u64,
}

impl Iso {
    /// The disc that begins with `head`.
    pub(super) fn open(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        terms.admit(head.len() as u64)?;
        let mut needs = START as u64;
        if let Some(volume) = descriptors(head, STEP).find(|descriptor| is_primary_volume(descriptor)) {
            let fields = Fields::new(Format::Iso, volume);
            let blocks = fields.le32(80)?;
            let block_size = fields.le16(128)?;
            needs = needs.max((u64::from(blocks) * u64::from(block_size)).saturating_sub(PADDING));
        }
        Ok(Self { needs })
    }
}

impl Inspect for Iso {
    fn next(&mut self, _: u64) -> Option<Range<u64>> {
        None
    }

    fn take(&mut self, _: u64, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self) -> u64 {
        self.needs
    }

    fn finish(&self, length: u64, _: &[u8]) -> Result<Disk, Refusal> {
        Ok(Disk { format: Format::Iso, virtual_size: length })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Depth;
    use super::super::seeds::{self, verdict, with};
    use super::*;

    #[test]
    fn a_disc_that_also_boots_from_a_stick_is_an_iso() {
        let hybrid = with(seeds::iso(), 510, &[0x55, 0xaa]);
        assert_eq!(verdict(&hybrid, Depth::Full).unwrap().format, Format::Iso);
    }

    #[test]
    fn padding_may_be_missing_and_more_is_a_cut() {
        let iso = seeds::iso();
        let whole = verdict(&iso[..250 * 2048], Depth::Full);
        assert_eq!(whole, Ok(Disk { format: Format::Iso, virtual_size: 250 * 2048 }));
        let cut = Refusal::Truncated { format: Format::Iso, needs: 250 * 2048, has: 249 * 2048 };
        assert_eq!(verdict(&iso[..249 * 2048], Depth::Full), Err(cut));
    }

    #[test]
    fn udf_is_found_on_large_sectors() {
        let mut image = vec![0; 64 * 1024];
        for (index, name) in [b"BEA01", b"NSR03", b"TEA01"].into_iter().enumerate() {
            seeds::put(&mut image, START + index * LARGE_STEP + 1, name);
        }
        assert!(is_iso(&image));
        assert!(!is_iso(&with(image, START, &[0; 8])), "the sequence does not begin");
    }
}
