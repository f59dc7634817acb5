//! The headers and the metadata of a VHDX, as far as they tell what the image is.

use super::fields::Fields;
use super::{Format, Refusal};

const FORMAT: Format = Format::Vhdx;

/// Bytes of a table of regions, or of metadata.
pub(super) const TABLE: u64 = 64 * 1024;
const HEADERS: [usize; 2] = [64 * 1024, 128 * 1024];
const REGION_TABLES: [usize; 2] = [192 * 1024, 256 * 1024];

/// Identifiers, as they lie in the file.
pub(super) type Guid = [u8; 16];
const BAT: Guid = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
const METADATA: Guid = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
pub(super) const FILE_PARAMETERS: Guid = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
pub(super) const DISK_SIZE: Guid = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
pub(super) const SECTOR_SIZE: Guid = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);

/// The three numbers in front are stored with their lowest byte first.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> Guid {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// Refuses an image whose current header is none, or tells of a log to be replayed.
pub(super) fn check_headers(head: &[u8]) -> Result<(), Refusal> {
    let fields = Fields::new(FORMAT, head);
    let mut current: Option<(u64, &[u8])> = None;
    for at in HEADERS {
        let header = fields.slice(at, 4096)?;
        let sequence = Fields::new(FORMAT, header).le64(8)?;
        if is_sealed(header, *b"head") && current.is_none_or(|(newest, _)| newest < sequence) {
            current = Some((sequence, header));
        }
    }
    let Some((_, header)) = current else {
        return Err(Refusal::malformed(FORMAT, "neither of its two headers is valid"));
    };
    let header = Fields::new(FORMAT, header);
    let version = header.le16(66)?;
    if version != 1 {
        return Err(Refusal::unsupported(FORMAT, format!("version {version}")));
    }
    let log: Guid = header.array(48)?;
    if log != Guid::default() && header.le32(68)? != 0 {
        return Err(Refusal::NeedsRepair { format: FORMAT, reason: "its log has to be replayed" });
    }
    Ok(())
}

/// Where the two regions lie that matter: each its place and its length, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Regions {
    pub(super) bat: (u64, u64),
    pub(super) metadata: (u64, u64),
}

/// Reads the table of regions, or its copy.
pub(super) fn regions(head: &[u8]) -> Result<Regions, Refusal> {
    let fields = Fields::new(FORMAT, head);
    let mut table = None;
    for at in REGION_TABLES.into_iter().rev() {
        let bytes = fields.slice(at, 64 * 1024)?;
        if is_sealed(bytes, *b"regi") {
            table = Some(Fields::new(FORMAT, bytes));
        }
    }
    let Some(table) = table else {
        return Err(Refusal::malformed(FORMAT, "neither of its two region tables is valid"));
    };
    let (mut bat, mut metadata) = (None, None);
    for entry in entries(&table, table.le32(8)?, 16)? {
        let place = (entry.le64(16)?, u64::from(entry.le32(24)?));
        match entry.array(0)? {
            BAT => bat = Some(place),
            METADATA => metadata = Some(place),
            _ if entry.le32(28)? & 1 != 0 => {
                return Err(Refusal::unsupported(FORMAT, "a required region that is unknown"));
            }
            _ => {}
        }
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) if metadata.1 >= TABLE => Ok(Regions { bat, metadata }),
        _ => Err(Refusal::malformed(FORMAT, "its block table or its metadata is missing")),
    }
}

/// An item of metadata: what it is, and where it lies within its region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) id: Guid,
    pub(super) place: u64,
}

/// The items that matter, in the order of the file.
pub(super) fn items(table: &[u8]) -> Result<Vec<Item>, Refusal> {
    let table = Fields::new(FORMAT, table);
    if table.slice(0, 8)? != b"metadata" {
        return Err(Refusal::malformed(FORMAT, "its metadata has no table"));
    }
    let mut items = Vec::new();
    for wanted in [FILE_PARAMETERS, DISK_SIZE, SECTOR_SIZE] {
        let mut item = None;
        for entry in entries(&table, u32::from(table.le16(10)?), 32)? {
            if entry.array::<16>(0)? == wanted {
                item = Some(Item { id: wanted, place: u64::from(entry.le32(16)?) });
            }
        }
        items.extend(item);
    }
    if items.len() < 3 {
        return Err(Refusal::malformed(
            FORMAT,
            "its metadata does not tell its size, its blocks or its sectors",
        ));
    }
    items.sort_unstable_by_key(|item| item.place);
    Ok(items)
}

/// The `count` entries of 32 bytes of a table, behind its header of `start` bytes.
fn entries<'a>(table: &Fields<'a>, count: u32, start: usize) -> Result<Vec<Fields<'a>>, Refusal> {
    if count > 2047 {
        return Err(Refusal::malformed(FORMAT, format!("its tables cannot have {count} entries")));
    }
    let entry = |index| Ok(Fields::new(FORMAT, table.slice(start + index * 32, 32)?));
    (0..count as usize).map(entry).collect()
}

/// Whether a structure bears its signature, and the checksum behind it is right.
fn is_sealed(bytes: &[u8], signature: [u8; 4]) -> bool {
    let Some(([s0, s1, s2, s3, c0, c1, c2, c3], rest)) = bytes.split_first_chunk() else { return false };
    // The checksum is taken as if it were zero itself.
    [*s0, *s1, *s2, *s3] == signature
        && crc32c(&[&signature, &[0; 4], rest]) == u32::from_le_bytes([*c0, *c1, *c2, *c3])
}

/// CRC-32C, bit by bit: it is taken of four small structures.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
    }
}
