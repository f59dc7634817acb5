//! Raw images: everything that no other format claims, unless it is plainly no disk.
//!
//! A fixed VHD is one too, up to its last 512 bytes: a footer. Its checksum and its size must be right, or it is
//! the data of somebody's disk.

use std::ops::Range;

use super::inspect::{Inspect, Terms};
use super::{Disk, Format, Refusal, foreign, vhd};

/// A raw image, or a fixed VHD.
#[derive(Debug)]
pub(super) struct Raw;

impl Raw {
    /// The image that begins with `head`.
    pub(super) fn open(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        foreign::refuse(head)?;
        terms.admit(head.len() as u64)?;
        Ok(Self)
    }
}

impl Inspect for Raw {
    fn next(&mut self, _: u64) -> Option<Range<u64>> {
        None
    }

    fn take(&mut self, _: u64, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self) -> u64 {
        1
    }

    fn wants_tail(&self) -> bool {
        true
    }

    fn finish(&self, length: u64, tail: &[u8]) -> Result<Disk, Refusal> {
        let footer = tail.last_chunk::<512>().and_then(|footer| vhd::fixed_footer(footer));
        let Some(footer) = footer else { return Ok(Disk { format: Format::Raw, virtual_size: length }) };
        let needs = footer.current_size.saturating_add(512);
        if length < needs {
            return Err(Refusal::Truncated { format: Format::Vhd, needs, has: length });
        }
        if length > needs {
            // A VHD that ends exactly where the disk does, on which somebody keeps it.
            return Ok(Disk { format: Format::Raw, virtual_size: length });
        }
        Ok(Disk { format: Format::Vhd, virtual_size: footer.virtual_size })
    }
}
