//! The header of a qcow2, versions 2 and 3: what disk it tells of, and what it must not tell of.

use super::fields::{self, Fields};
use super::inspect::Terms;
use super::{Format, Refusal};

const FORMAT: Format = Format::Qcow2;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// The header extension that names an external data file.
const DATA_FILE: u32 = 0x4441_5441;
/// The one that says where the LUKS header lies.
const ENCRYPTION: u32 = 0x0537_be77;

/// The largest tables that QEMU opens, in bytes.
const LARGEST_L1: u64 = 32 << 20;
const LARGEST_REFCOUNT_TABLE: u64 = 8 << 20;
const LARGEST_SNAPSHOTS: u64 = 65_536 * SNAPSHOT;
/// The least that tells of a snapshot, in bytes.
const SNAPSHOT: u64 = 40;

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    /// Clusters have 2 to the power of this bytes.
    pub(super) cluster_bits: u32,
    /// Whether entries of L2 tables have a bitmap of subclusters behind them.
    pub(super) extended: bool,
    /// Bytes of the disk.
    pub(super) virtual_size: u64,
    /// Where the L1 table lies, in bytes.
    pub(super) l1: u64,
    /// Entries of the L1 table.
    pub(super) l1_entries: u64,
    /// Where the last of the tables ends that the header points at, in bytes.
    pub(super) tables_end: u64,
}

impl Header {
    /// The header at the beginning of `head`.
    pub(super) fn read(head: &[u8], terms: Terms) -> Result<Self, Refusal> {
        let fields = Fields::new(FORMAT, head);
        let version = fields.be32(4)?;
        if !matches!(version, 2 | 3) {
            return Err(Refusal::unsupported(FORMAT, format!("version {version}")));
        }
        let cluster_bits = fields.be32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Refusal::malformed(
                FORMAT,
                format!("clusters have 512 bytes to 2 MiB, not 2 to the power of {cluster_bits}"),
            ));
        }
        let extended = if version == 3 { check_v3(&fields, cluster_bits)? } else { false };
        refuse_others(&fields, version, cluster_bits)?;
        if fields.be32(32)? != 0 {
            return Err(Refusal::Encrypted { format: FORMAT });
        }
        // QEMU leaves out what is no whole sector.
        let virtual_size = fields.be64(24)? & !511;
        terms.admit(virtual_size)?;
        let covered_bits = cluster_bits + cluster_bits - if extended { 4 } else { 3 };
        let l1_entries = u64::from(fields.be32(36)?);
        if virtual_size.div_ceil(1 << covered_bits) > l1_entries {
            return Err(Refusal::malformed(
                FORMAT,
                format!(
                    "its L1 table of {l1_entries} entries is too small for a disk of {virtual_size} bytes"
                ),
            ));
        }
        let l1 = fields.be64(40)?;
        let tables_end = tables_end(&fields, cluster_bits)?;
        Ok(Self { version, cluster_bits, extended, virtual_size, l1, l1_entries, tables_end })
    }
}

/// Checks what version 3 added to the header; whether entries of L2 tables are extended.
fn check_v3(fields: &Fields<'_>, cluster_bits: u32) -> Result<bool, Refusal> {
    let features = fields.be64(72)?;
    let refcount_order = fields.be32(96)?;
    let header_length = fields.be32(100)?;
    if features & EXTERNAL_DATA != 0 {
        return Err(Refusal::ExternalData { format: FORMAT, name: data_file(fields, header_length)? });
    }
    if features & CORRUPT != 0 {
        return Err(Refusal::NeedsRepair { format: FORMAT, reason: "it is marked as corrupt" });
    }
    let unknown = features & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2);
    if unknown != 0 {
        return Err(Refusal::unsupported(FORMAT, format!("unknown features {unknown:#x}")));
    }
    if header_length < 104 || u64::from(header_length) > 1 << cluster_bits {
        return Err(Refusal::malformed(FORMAT, format!("its header cannot have {header_length} bytes")));
    }
    if refcount_order > 6 {
        return Err(Refusal::malformed(
            FORMAT,
            format!("refcounts cannot have 2 to the power of {refcount_order} bits"),
        ));
    }
    let has_type = header_length > 104;
    let kind = if has_type { fields.byte(104)? } else { 0 };
    if kind > 1 || (kind != 0) != (features & COMPRESSION_TYPE != 0) {
        return Err(Refusal::unsupported(FORMAT, format!("compression type {kind}")));
    }
    let extended = features & EXTENDED_L2 != 0;
    if extended && cluster_bits < 14 {
        return Err(Refusal::malformed(FORMAT, "clusters with subclusters have 16 KiB or more"));
    }
    Ok(extended)
}

/// Refuses an image that needs another file, or a key.
fn refuse_others(fields: &Fields<'_>, version: u32, cluster_bits: u32) -> Result<(), Refusal> {
    let at = fields.be64(8)?;
    let length = fields.be32(16)?;
    if at != 0 || length != 0 {
        let name = usize::try_from(at).ok().zip(usize::try_from(length.min(1023)).ok());
        let name = name.and_then(|(at, length)| fields.slice(at, length).ok());
        return Err(Refusal::BackingFile { format: FORMAT, name: fields::text(name.unwrap_or_default()) });
    }
    let start = if version == 3 { fields.be32(100)? } else { 72 };
    for (kind, data) in extensions(fields, start, 1 << cluster_bits) {
        match (kind, data) {
            (DATA_FILE, name) => {
                let name = fields::text(name.unwrap_or_default());
                return Err(Refusal::ExternalData { format: FORMAT, name });
            }
            (ENCRYPTION, _) => return Err(Refusal::Encrypted { format: FORMAT }),
            (_, None) => {
                return Err(Refusal::malformed(
                    FORMAT,
                    format!("its header extension {kind:#x} is too long"),
                ));
            }
            (_, Some(_)) => {}
        }
    }
    Ok(())
}

/// The header extensions from `start` on, each with its data unless that is longer than the head or goes beyond
/// `end`; then it is the last. One of kind 0 ends them.
fn extensions<'a>(
    fields: &Fields<'a>,
    start: u32,
    end: u64,
) -> impl Iterator<Item = (u32, Option<&'a [u8]>)> {
    let fields = *fields;
    let mut next = usize::try_from(start).ok();
    std::iter::from_fn(move || {
        let at = next.filter(|at| (*at as u64) < end)?;
        let kind = fields.be32(at).ok()?;
        let length = usize::try_from(fields.be32(at + 4).ok()?).ok()?;
        let data = fields.slice(at + 8, length).ok().filter(|_| (at + 8 + length) as u64 <= end);
        next = data.filter(|_| kind != 0).map(|_| at + 8 + length.next_multiple_of(8));
        Some((kind, data))
    })
}

/// The name of the external data file, as far as there is one.
fn data_file(fields: &Fields<'_>, header_length: u32) -> Result<String, Refusal> {
    fields.slice(0, 104)?;
    let name = extensions(fields, header_length, u64::MAX).find(|(kind, _)| *kind == DATA_FILE);
    Ok(fields::text(name.and_then(|(_, name)| name).unwrap_or_default()))
}

/// Where the last of the tables ends that the header points at.
fn tables_end(fields: &Fields<'_>, cluster_bits: u32) -> Result<u64, Refusal> {
    let l1_size = u64::from(fields.be32(36)?) * 8;
    let l1_end = table_end("L1", fields.be64(40)?, l1_size, LARGEST_L1, cluster_bits)?;
    let refcounts = fields.be64(48)?;
    let refcounts_size = u64::from(fields.be32(56)?) << cluster_bits;
    if refcounts_size == 0 {
        return Err(Refusal::malformed(FORMAT, "it has no refcount table"));
    }
    let refcounts_end =
        table_end("refcount", refcounts, refcounts_size, LARGEST_REFCOUNT_TABLE, cluster_bits)?;
    // The last cluster of the refcount table may be unpadded.
    let end = l1_end.max(refcounts_end.saturating_sub((1 << cluster_bits) - 1));
    let snapshots_size = u64::from(fields.be32(60)?) * SNAPSHOT;
    if snapshots_size == 0 {
        return Ok(end);
    }
    let snapshots = fields.be64(64)?;
    Ok(end.max(table_end("snapshot", snapshots, snapshots_size, LARGEST_SNAPSHOTS, cluster_bits)?))
}

/// Where a table of `size` bytes at `place` ends.
fn table_end(what: &str, place: u64, size: u64, largest: u64, cluster_bits: u32) -> Result<u64, Refusal> {
    if size > largest {
        return Err(Refusal::malformed(
            FORMAT,
            format!("its {what} table has {size} bytes, and at most {largest} are allowed"),
        ));
    }
    let begins_cluster = place != 0 && place & ((1 << cluster_bits) - 1) == 0;
    place
        .checked_add(size)
        .filter(|_| begins_cluster)
        .ok_or_else(|| Refusal::malformed(FORMAT, format!("its {what} table cannot lie at {place}")))
}

#[cfg(test)]
mod tests {
    use super::super::seeds::{self, put, verdict, with};
    use super::super::{Depth, Limits};
    use super::*;

    const HEADER: Depth = Depth::Header;

    fn v3() -> Vec<u8> {
        seeds::qcow2(3, 12, false)
    }

    /// An image with other features.
    fn features(bits: u64) -> Vec<u8> {
        with(v3(), 72, &bits.to_be_bytes())
    }

    fn is_malformed(bytes: &[u8]) -> bool {
        matches!(verdict(bytes, Depth::Full), Err(Refusal::Malformed { format: FORMAT, .. }))
    }

    fn is_unsupported(bytes: &[u8]) -> bool {
        matches!(verdict(bytes, HEADER), Err(Refusal::Unsupported { format: FORMAT, .. }))
    }

    fn is_truncated(bytes: &[u8]) -> bool {
        matches!(verdict(bytes, Depth::Full), Err(Refusal::Truncated { format: FORMAT, .. }))
    }

    #[test]
    fn a_qcow2_with_a_backing_file_is_refused() {
        let mut image = with(v3(), 300, b"/etc/shadow");
        put(&mut image, 8, &300_u64.to_be_bytes());
        put(&mut image, 16, &11_u32.to_be_bytes());
        let named = Refusal::BackingFile { format: FORMAT, name: "/etc/shadow".to_owned() };
        assert_eq!(verdict(&image, HEADER), Err(named));
        let hidden = with(v3(), 8, &u64::MAX.to_be_bytes());
        let nameless = Refusal::BackingFile { format: FORMAT, name: String::new() };
        assert_eq!(verdict(&hidden, HEADER), Err(nameless));
    }

    #[test]
    fn a_qcow2_with_its_data_elsewhere_is_refused() {
        let mut extension = DATA_FILE.to_be_bytes().to_vec();
        extension.extend([0, 0, 0, 4]);
        extension.extend(b"data\0\0\0\0");
        let external = Refusal::ExternalData { format: FORMAT, name: "data".to_owned() };
        for bits in [0, EXTERNAL_DATA] {
            let image = with(features(bits), 104, &extension);
            assert_eq!(verdict(&image, HEADER), Err(external.clone()));
        }
    }

    #[test]
    fn an_encrypted_qcow2_is_refused() {
        let encrypted = Err(Refusal::Encrypted { format: FORMAT });
        assert_eq!(verdict(&with(v3(), 32, &2_u32.to_be_bytes()), HEADER), encrypted);
        assert_eq!(verdict(&with(v3(), 104, &ENCRYPTION.to_be_bytes()), HEADER), encrypted);
    }

    #[test]
    fn a_dirty_qcow2_is_taken_and_a_corrupt_one_refused() {
        assert!(verdict(&features(DIRTY), HEADER).is_ok());
        assert!(matches!(verdict(&features(CORRUPT), HEADER), Err(Refusal::NeedsRepair { .. })));
        assert!(is_unsupported(&features(1 << 5)));
    }

    #[test]
    fn the_compression_types_are_zlib_and_zstd() {
        let typed = |bits, kind: u8| {
            let image = with(features(bits), 100, &112_u32.to_be_bytes());
            with(image, 104, &[kind])
        };
        assert!(verdict(&typed(0, 0), HEADER).is_ok());
        assert!(verdict(&typed(COMPRESSION_TYPE, 1), HEADER).is_ok());
        assert!(is_unsupported(&typed(COMPRESSION_TYPE, 2)));
        assert!(is_unsupported(&typed(0, 1)));
    }

    #[test]
    fn other_versions_are_refused() {
        for version in [0_u32, 1, 4, u32::MAX] {
            assert!(is_unsupported(&with(v3(), 4, &version.to_be_bytes())));
        }
    }

    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        for cluster_bits in [0_u32, 8, 22, u32::MAX] {
            assert!(is_malformed(&with(v3(), 20, &cluster_bits.to_be_bytes())));
        }
        assert!(is_malformed(&with(v3(), 36, &[0; 4])), "an L1 table that is too small");
        assert!(is_malformed(&with(v3(), 36, &[0xff; 4])), "an L1 table that is too large");
        assert!(is_malformed(&with(v3(), 40, &4097_u64.to_be_bytes())), "an L1 table off its place");
        assert!(is_malformed(&with(v3(), 100, &96_u32.to_be_bytes())), "a short header");
        assert!(is_malformed(&with(v3(), 56, &[0; 4])), "no refcount table");
        assert!(is_malformed(&with(v3(), 104, &[1; 8])), "a header extension that is too long");
        assert!(is_malformed(&with(v3(), 60, &[0, 0, 0, 1])), "snapshots in the header");
        assert!(is_truncated(&with(v3(), 40, &(1_u64 << 40).to_be_bytes())), "an L1 table far away");
        assert!(is_truncated(&v3()[..90]));
    }

    #[test]
    fn a_disk_beyond_the_limit_is_refused() {
        let image = with(v3(), 24, &(1_u64 << 62).to_be_bytes());
        let limit = Limits::default().virtual_size;
        assert_eq!(verdict(&image, HEADER), Err(Refusal::VirtualSizeTooLarge { size: 1 << 62, limit }));
        assert_eq!(verdict(&with(v3(), 24, &[0; 8]), HEADER), Err(Refusal::Empty));
    }
}
