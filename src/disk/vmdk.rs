//! VMDK, `VMware`'s format, as one sparse file: a header, a descriptor, a directory of tables that say where each
//! grain lies, the grains. A grain counts as there if its first byte is, as for
//! `qemu-img check`. In a stream-optimized file the directory may come last, and a footer says where.
//!
//! The other kinds spread a disk over several files, of which each is only a part; they are refused.

use std::ops::Range;

use super::fields::{Fields, le32s};
use super::inspect::{Inspect, Levels, PLACES, Terms};
use super::{Depth, Disk, Format, Refusal, vmdk_descriptor};

const FORMAT: Format = Format::Vmdk;
const SPARSE: &[u8] = b"KDMV";
const ESX_SPARSE: &[u8] = b"COWD";
const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";
const SECTOR: u64 = 512;
/// What stands in the header for a directory that comes last.
const AT_END: u64 = u64::MAX;
/// A descriptor has 1 to 20 sectors in practice.
const LONGEST_DESCRIPTOR: u64 = 64 * 1024;
/// Entries of a grain table that QEMU opens, at most.
const LONGEST_TABLE: u64 = 512;
/// The flag of a header that tells of a copy of the directory.
const HAS_COPY: u32 = 1 << 1;
/// The marker in front of the footer.
const FOOTER: u32 = 3;

/// Whether an image that begins with `head` is a VMDK, or a part of one.
pub(super) fn is_vmdk(head: &[u8]) -> bool {
    head.starts_with(SPARSE)
        || head.starts_with(ESX_SPARSE)
        || head
            .trim_ascii_start()
            .get(..DESCRIPTOR.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(DESCRIPTOR))
}

/// What a header or a footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// Sectors of the disk.
    capacity: u64,
    /// Sectors of a grain.
    grain: u64,
    descriptor: u64,
    descriptor_size: u64,
    /// Entries of a grain table.
    table: u64,
    directory: u64,
    /// A copy of the directory, if there is one.
    copy: Option<u64>,
    /// Sectors in front of the grains.
    overhead: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let fields = Fields::new(FORMAT, bytes);
        let version = fields.le32(4)?;
        if !(1..=3).contains(&version) {
            return Err(Refusal::unsupported(FORMAT, format!("version {version}")));
        }
        Ok(Self {
            capacity: fields.le64(12)?,
            grain: fields.le64(20)?,
            descriptor: fields.le64(28)?,
            descriptor_size: fields.le64(36)?,
            table: u64::from(fields.le32(44)?),
            directory: fields.le64(56)?,
            copy: if fields.le32(8)? & HAS_COPY != 0 {
                Some(fields.le64(48)?).filter(|copy| *copy > 0)
            } else {
                None
            },
            overhead: fields.le64(64)?,
        })
    }

    /// Bytes of the disk, if the header makes sense.
    fn size(&self) -> Result<u64, Refusal> {
        if !self.grain.is_power_of_two() || self.grain > 1 << 21 {
            return Err(Refusal::malformed(FORMAT, format!("grains cannot have {} sectors", self.grain)));
        }
        if self.table == 0 || self.table > LONGEST_TABLE {
            return Err(Refusal::malformed(
                FORMAT,
                format!("grain tables cannot have {} entries", self.table),
            ));
        }
        Ok(self.capacity.saturating_mul(SECTOR))
    }

    /// Entries of the grain directory.
    fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.grain.saturating_mul(self.table).max(1))
    }

    /// Where the directory ends, and its copy, in bytes.
    fn directory_end(&self) -> Result<u64, Refusal> {
        let mut end = 0;
        for sector in self.copy.into_iter().chain([self.directory]) {
            let start = sector.checked_mul(SECTOR).filter(|start| *start >= SECTOR);
            let directory = start.and_then(|start| start.checked_add(self.tables().checked_mul(4)?));
            end = end.max(directory.ok_or_else(|| {
                Refusal::malformed(FORMAT, format!("its grain directory cannot lie in sector {sector}"))
            })?);
        }
        Ok(end)
    }
}

/// A VMDK in one sparse file.
#[derive(Debug)]
pub(super) struct Vmdk {
    disk: Disk,
    header: Header,
    levels: Option<Levels>,
    needs: u64,
}

impl Vmdk {
    /// The image that begins with `head`.
    pub(super) fn open(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        if head.starts_with(ESX_SPARSE) {
            return Err(Refusal::unsupported(FORMAT, "the ESX sparse layout (COWD) of a snapshot"));
        }
        if !head.starts_with(SPARSE) {
            return Err(vmdk_descriptor::refuse_file(head));
        }
        let header = Header::read(head)?;
        let descriptor = embedded_descriptor(head, &header)?;
        if header.capacity == 0 {
            // QEMU then goes by the descriptor alone.
            return Err(vmdk_descriptor::refuse_file(descriptor));
        }
        let virtual_size = header.size()?;
        vmdk_descriptor::check_embedded(descriptor)?;
        terms.admit(virtual_size)?;
        let mut needs = header.overhead.checked_mul(SECTOR).ok_or_else(|| {
            Refusal::malformed(FORMAT, format!("its grains cannot begin in sector {}", header.overhead))
        })?;
        let mut levels = None;
        if header.directory == AT_END {
            // The last grain is followed by two markers and the footer at least.
            needs = needs.max(4 * SECTOR);
        } else {
            needs = needs.max(header.directory_end()?);
            if terms.depth == Depth::Full && header.tables() <= PLACES as u64 {
                let start = header.directory.saturating_mul(SECTOR);
                levels = Some(Levels::new(start, header.tables() * 4, header.table * 4));
            }
        }
        Ok(Self { disk: Disk { format: FORMAT, virtual_size }, header, levels, needs })
    }
}

/// The descriptor behind the header.
fn embedded_descriptor<'a>(head: &'a [u8], header: &Header) -> Result<&'a [u8], Refusal> {
    let size = header.descriptor_size.saturating_mul(SECTOR).min(LONGEST_DESCRIPTOR);
    let at = header.descriptor.saturating_mul(SECTOR);
    let inside = at.checked_add(size).filter(|end| *end <= super::HEAD as u64);
    let place = inside.and_then(|_| usize::try_from(at).ok()).zip(usize::try_from(size).ok());
    let (at, size) = place.ok_or_else(|| {
        Refusal::malformed(FORMAT, format!("its descriptor cannot lie in sector {}", header.descriptor))
    })?;
    // Without one, the file is a part of a disk, and the descriptor is another file.
    if header.descriptor == 0 { Ok(&[]) } else { Fields::new(FORMAT, head).slice(at, size) }
}

impl Inspect for Vmdk {
    fn next(&mut self, from: u64) -> Option<Range<u64>> {
        self.levels.as_mut()?.next(from)
    }

    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(levels) = &mut self.levels else { return Ok(()) };
        let in_first = levels.in_first;
        levels.seen(at + bytes.len() as u64);
        // 0 stands for a grain that was never written, and 1 for zeros.
        for place in le32s(bytes).filter(|sector| *sector > 1).map(|sector| u64::from(sector) * SECTOR) {
            let mut end = place + 1;
            if in_first {
                levels.add(place);
                end = place + self.header.table * 4;
            }
            self.needs = self.needs.max(end);
        }
        Ok(())
    }

    fn needs(&self) -> u64 {
        self.needs
    }

    fn wants_tail(&self) -> bool {
        self.header.directory == AT_END
    }

    fn finish(&self, length: u64, tail: &[u8]) -> Result<Disk, Refusal> {
        if self.header.directory != AT_END {
            return Ok(self.disk);
        }
        // A marker, the footer, and the marker of the end.
        let cut = Refusal::Truncated { format: FORMAT, needs: length.saturating_add(SECTOR), has: length };
        let end = Fields::new(FORMAT, tail);
        let marked = tail.len() == 3 * 512
            && end.le32(8)? == 0
            && end.le32(12)? == FOOTER
            && end.slice(512, 4)? == SPARSE
            && end.le64(1024)? == 0
            && end.le32(1024 + 8)? == 0
            && end.le32(1024 + 12)? == 0;
        if !marked {
            return Err(cut);
        }
        let footer = Header::read(end.slice(512, 512)?)?;
        if footer.capacity != self.header.capacity {
            return Err(Refusal::malformed(
                FORMAT,
                format!(
                    "its header tells of {} sectors, and its footer of {}",
                    self.header.capacity, footer.capacity
                ),
            ));
        }
        footer.size()?;
        if footer.directory == AT_END {
            return Err(Refusal::malformed(FORMAT, "its footer does not say where the grain directory lies"));
        }
        let needs = footer.directory_end()?;
        if needs > length {
            Err(Refusal::Truncated { format: FORMAT, needs, has: length })
        } else {
            Ok(self.disk)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{self, verdict, with};
    use super::*;

    fn is_malformed(bytes: &[u8]) -> bool {
        matches!(verdict(bytes, Depth::Full), Err(Refusal::Malformed { format: FORMAT, .. }))
    }

    fn is_truncated(bytes: &[u8]) -> bool {
        matches!(verdict(bytes, Depth::Full), Err(Refusal::Truncated { format: FORMAT, .. }))
    }

    #[test]
    fn a_descriptor_file_is_refused_with_a_file_that_it_names() {
        let text = seeds::DESCRIPTOR.replace("SPARSE \"disk.vmdk", "FLAT \"disk-flat.vmdk");
        let refusal = Refusal::OtherFiles { format: FORMAT, name: "disk-flat.vmdk".to_owned() };
        assert_eq!(verdict(text.as_bytes(), Depth::Header), Err(refusal.clone()));
        // A sparse header of no sectors stands for its descriptor.
        let image = with(with(seeds::vmdk(), 12, &[0; 8]), 512, text.as_bytes());
        assert_eq!(verdict(&image, Depth::Header), Err(refusal));
        assert!(is_malformed(b"# Disk DescriptorFile\nversion=1\n"));
    }

    #[test]
    fn a_part_of_a_disk_is_refused() {
        let part = with(seeds::vmdk(), 28, &[0; 16]);
        assert!(matches!(verdict(&part, Depth::Header), Err(Refusal::OtherFiles { .. })));
        let esx = verdict(b"COWD\x01\0\0\0", Depth::Header);
        assert!(matches!(esx, Err(Refusal::Unsupported { .. })));
    }

    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        assert!(is_malformed(&with(seeds::vmdk(), 20, &[3])), "a grain of three sectors");
        assert!(is_malformed(&with(seeds::vmdk(), 44, &[0; 4])), "a table of no entries");
        assert!(is_malformed(&with(seeds::vmdk(), 44, &[0xff; 4])), "a table of all entries");
        assert!(is_malformed(&with(seeds::vmdk(), 28, &[0xff; 8])), "a descriptor far away");
        assert!(is_malformed(&with(seeds::vmdk(), 56, &[0; 8])), "a directory in the header");
        assert!(is_truncated(&with(seeds::vmdk(), 56, &[0, 0, 1])), "a directory far away");
        let version = verdict(&with(seeds::vmdk(), 4, &[4]), Depth::Header);
        assert!(matches!(version, Err(Refusal::Unsupported { .. })));
        let large = verdict(&with(seeds::vmdk(), 12, &[0xff; 8]), Depth::Header);
        assert!(matches!(large, Err(Refusal::VirtualSizeTooLarge { .. })));
    }

    #[test]
    fn grains_that_are_stored_must_be_there() {
        let image = with(seeds::vmdk(), 3 * 512, &[0, 0, 1, 0]);
        assert!(is_truncated(&image));
        assert!(verdict(&image, Depth::Header).is_ok());
    }

    #[test]
    fn a_stream_without_its_footer_is_cut() {
        let stream = seeds::vmdk_stream();
        for length in [4 * 512, stream.len() - 512, stream.len() - 1] {
            assert!(is_truncated(&stream[..length]));
        }
        assert!(is_truncated(&with(stream.clone(), 24 * 512 + 56, &[0, 1])), "a directory far away");
        assert!(is_malformed(&with(stream, 24 * 512 + 12, &[65])), "a footer of another disk");
    }
}
