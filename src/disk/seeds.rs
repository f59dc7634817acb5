//! Small valid images of each format, built by hand, for the tests to take apart.

use super::vhdx_metadata::crc32c;
use super::{Depth, Disk, Format, Limits, Probe, Refusal};

/// A valid image.
#[derive(Debug, Clone)]
pub(super) struct Seed {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) disk: Disk,
}

/// One of each kind.
pub(super) fn all() -> Vec<Seed> {
    let seed = |name, bytes, format, virtual_size| Seed { name, bytes, disk: Disk { format, virtual_size } };
    vec![
        seed("qcow2 v2", qcow2(2, 9, false), Format::Qcow2, 32 * 1024),
        seed("qcow2 v3", qcow2(3, 12, false), Format::Qcow2, 32 * 1024),
        seed("qcow2 with subclusters", qcow2(3, 14, true), Format::Qcow2, 32 * 1024),
        seed("vmdk", vmdk(), Format::Vmdk, 32 * 1024),
        seed("vmdk with a footer", vmdk_stream(), Format::Vmdk, 32 * 1024),
        seed("vdi", vdi(), Format::Vdi, 2 << 20),
        seed("dynamic vhd", vhd(), Format::Vhd, 8192),
        seed("fixed vhd", vhd_fixed(), Format::Vhd, 4096),
        seed("vhdx", vhdx(), Format::Vhdx, 5 << 20),
        seed("iso", iso(), Format::Iso, 400 * 2048),
        seed("udf", udf(), Format::Iso, 40 * 1024),
        seed("raw", raw(), Format::Raw, 4096),
    ]
}

/// The verdict on an image that comes in one piece.
pub(super) fn verdict(bytes: &[u8], depth: Depth) -> Result<Disk, Refusal> {
    let mut probe = Probe::new(Limits::default(), depth, None);
    probe.update(bytes)?;
    probe.finish()
}

/// Writes `bytes` at `at`, and makes the image longer if need be.
pub(super) fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// `image` with `bytes` at `at`.
pub(super) fn with(mut image: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    put(&mut image, at, bytes);
    image
}

fn be64(image: &mut Vec<u8>, at: usize, value: u64) {
    put(image, at, &value.to_be_bytes());
}

fn be32(image: &mut Vec<u8>, at: usize, value: u32) {
    put(image, at, &value.to_be_bytes());
}

fn le64(image: &mut Vec<u8>, at: usize, value: u64) {
    put(image, at, &value.to_le_bytes());
}

fn le32(image: &mut Vec<u8>, at: usize, value: u32) {
    put(image, at, &value.to_le_bytes());
}

/// 32 KiB of disk. By cluster: header, refcount table, refcounts, L1, L2, two of data.
pub(super) fn qcow2(version: u32, cluster_bits: u32, extended: bool) -> Vec<u8> {
    let cluster = 1_u64 << cluster_bits;
    let at = |index: u64| usize::try_from(index * cluster).unwrap();
    let mut image = b"QFI\xfb".to_vec();
    be32(&mut image, 4, version);
    be32(&mut image, 20, cluster_bits);
    be64(&mut image, 24, 32 * 1024);
    be32(&mut image, 36, 1);
    be64(&mut image, 40, 3 * cluster);
    be64(&mut image, 48, cluster);
    be32(&mut image, 56, 1);
    if version == 3 {
        be64(&mut image, 72, if extended { 16 } else { 0 });
        be32(&mut image, 96, 4);
        be32(&mut image, 100, 104);
    }
    be64(&mut image, at(1), 2 * cluster);
    be64(&mut image, at(3), (4 * cluster) | 1 << 63);
    let step = if extended { 16 } else { 8 };
    for index in 0..2 {
        let entry = at(4) + usize::try_from(index).unwrap() * step;
        be64(&mut image, entry, ((5 + index) * cluster) | 1 << 63);
        if extended {
            be64(&mut image, entry + 8, 1);
        }
    }
    image.resize(at(5), 0);
    // The last cluster is short.
    image.resize(at(6) + 100, 7);
    image
}

/// Where the L2 table of [`qcow2`] lies.
pub(super) fn qcow2_l2(cluster_bits: u32) -> usize {
    4 << cluster_bits
}

fn vmdk_header(directory: u64) -> Vec<u8> {
    let mut header = b"KDMV".to_vec();
    le32(&mut header, 4, 1);
    le32(&mut header, 8, 3);
    le64(&mut header, 12, 64);
    le64(&mut header, 20, 8);
    le64(&mut header, 28, 1);
    le64(&mut header, 36, 1);
    le32(&mut header, 44, 512);
    le64(&mut header, 48, 2);
    le64(&mut header, 56, directory);
    le64(&mut header, 64, 8);
    put(&mut header, 73, b"\n \r\n");
    header.resize(512, 0);
    header
}

/// What [`vmdk`] says of itself.
pub(super) const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
                                     createType=\"monolithicSparse\"\nRW 64 SPARSE \"disk.vmdk\"\n";

/// 32 KiB of disk. By sector: header, descriptor, directory, a grain table of four, two grains of eight.
pub(super) fn vmdk() -> Vec<u8> {
    let mut image = vmdk_header(2);
    put(&mut image, 512, DESCRIPTOR.as_bytes());
    le32(&mut image, 2 * 512, 3);
    le32(&mut image, 3 * 512, 8);
    le32(&mut image, 3 * 512 + 4, 1);
    le32(&mut image, 3 * 512 + 8, 16);
    image.resize(8 * 512, 0);
    image.resize(24 * 512, 7);
    image
}

/// The same disk with its directory at the end, and a footer behind it.
pub(super) fn vmdk_stream() -> Vec<u8> {
    let mut image = vmdk_header(u64::MAX);
    put(&mut image, 512, DESCRIPTOR.as_bytes());
    // A grain at 8, a marker and its table at 16, a marker and the directory at 21, and the footer.
    le32(&mut image, 17 * 512, 8);
    le32(&mut image, 22 * 512, 17);
    le64(&mut image, 23 * 512, 1);
    le32(&mut image, 23 * 512 + 12, 3);
    put(&mut image, 24 * 512, &vmdk_header(22));
    image.resize(26 * 512, 0);
    image
}

/// 2 MiB of disk, and half of it stored.
pub(super) fn vdi() -> Vec<u8> {
    let mut image = b"<<< a disk >>>\n".to_vec();
    le32(&mut image, 0x40, 0xbeda_107f);
    le32(&mut image, 0x44, 0x0001_0001);
    le32(&mut image, 0x48, 0x190);
    le32(&mut image, 0x4c, 1);
    le32(&mut image, 0x154, 512);
    le32(&mut image, 0x158, 1024);
    le32(&mut image, 0x168, 512);
    le64(&mut image, 0x170, 2 << 20);
    le32(&mut image, 0x178, 1 << 20);
    le32(&mut image, 0x180, 2);
    le32(&mut image, 0x184, 1);
    le32(&mut image, 512, 0xffff_ffff);
    le32(&mut image, 516, 0);
    image.resize(1024, 0);
    image.resize(1024 + (1 << 20), 7);
    image
}

/// A footer of a disk of `size` bytes.
pub(super) fn vhd_footer(kind: u32, creator: [u8; 4], size: u64, geometry: [u8; 4]) -> Vec<u8> {
    let mut footer = b"conectix".to_vec();
    be32(&mut footer, 8, 2);
    be32(&mut footer, 12, 0x0001_0000);
    be64(&mut footer, 16, if kind == 2 { u64::MAX } else { 512 });
    put(&mut footer, 28, &creator);
    be64(&mut footer, 40, size);
    be64(&mut footer, 48, size);
    put(&mut footer, 56, &geometry);
    be32(&mut footer, 60, kind);
    footer.resize(512, 0);
    let sum = footer.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
    be32(&mut footer, 64, !sum);
    footer
}

/// 8 KiB of disk in blocks of 4 KiB, and one of them stored.
pub(super) fn vhd() -> Vec<u8> {
    let footer = vhd_footer(3, *b"win ", 8192, [0, 1, 1, 1]);
    let mut image = footer.clone();
    put(&mut image, 512, b"cxsparse");
    be64(&mut image, 512 + 16, 1536);
    be32(&mut image, 512 + 28, 2);
    be32(&mut image, 512 + 32, 4096);
    image.resize(1536, 0);
    image.resize(2048, 0xff);
    be32(&mut image, 1536 + 4, 4);
    image.resize(2048 + 512 + 4096, 7);
    image.extend(footer);
    image
}

/// 4 KiB of disk.
pub(super) fn vhd_fixed() -> Vec<u8> {
    let mut image = vec![7; 4096];
    image.extend(vhd_footer(2, *b"win ", 4096, [0, 1, 1, 1]));
    image
}

/// 5 MiB of disk in blocks of 1 MiB. By megabyte: headers, metadata, table, a block.
pub(super) fn vhdx() -> Vec<u8> {
    let mut image = b"vhdxfile".to_vec();
    for (at, sequence) in [(64 << 10, 1), (128 << 10, 2)] {
        put(&mut image, at, b"head");
        le64(&mut image, at + 8, sequence);
        put(&mut image, at + 66, &[1, 0]);
        le32(&mut image, at + 68, 1 << 20);
    }
    for at in [192 << 10, 256 << 10] {
        put(&mut image, at, b"regi");
        le32(&mut image, at + 8, 2);
        region(
            &mut image,
            at + 16,
            [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42],
            0x9d64_115e_9bfd_4a08,
            2,
        );
        region(
            &mut image,
            at + 48,
            [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b],
            0xb8fe_575f_050f_886e,
            1,
        );
    }
    put(&mut image, 1 << 20, b"metadata");
    put(&mut image, (1 << 20) + 10, &[3, 0]);
    let items: [(&[u8; 8], u64, u32); 3] = [
        (b"\x37\x67\xa1\xca\x36\xfa\x43\x4d", 0xb3b6_33f0_aa44_e76b, 0),
        (b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48", 0xb211_5dbe_d83b_f4b8, 8),
        (b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47", 0xba47_f233_a8fa_ab5f, 16),
    ];
    for (index, (start, end, place)) in items.into_iter().enumerate() {
        let at = (1 << 20) + 32 + index * 32;
        put(&mut image, at, start);
        be64(&mut image, at + 8, end);
        le32(&mut image, at + 16, (64 << 10) + place);
    }
    le32(&mut image, (1 << 20) + (64 << 10), 1 << 20);
    le64(&mut image, (1 << 20) + (64 << 10) + 8, 5 << 20);
    le32(&mut image, (1 << 20) + (64 << 10) + 16, 512);
    le64(&mut image, (2 << 20) + 8, (3 << 20) | 6);
    image.resize(3 << 20, 0);
    image.resize(4 << 20, 7);
    seal(&mut image);
    image
}

fn region(image: &mut Vec<u8>, at: usize, start: [u8; 8], end: u64, megabyte: u64) {
    put(image, at, &start);
    be64(image, at + 8, end);
    le64(image, at + 16, megabyte << 20);
    le32(image, at + 24, 1 << 20);
    le32(image, at + 28, 1);
}

/// Makes the checksums of a VHDX right again.
pub(super) fn seal(image: &mut [u8]) {
    for (at, size) in [(64, 4), (128, 4), (192, 64), (256, 64)] {
        if let Some(part) = image.get_mut(at << 10..(at + size) << 10) {
            let checksum = crc32c(&[&part[..4], &[0; 4], &part[8..]]);
            part[4..8].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}

/// 400 sectors, by its own word.
pub(super) fn iso() -> Vec<u8> {
    let mut image = vec![0; 32 * 1024];
    put(&mut image, 32 * 1024, b"\x01CD001\x01");
    le32(&mut image, 32 * 1024 + 80, 400);
    put(&mut image, 32 * 1024 + 128, &[0, 8]);
    put(&mut image, 34 * 1024, b"\xffCD001\x01");
    image.resize(400 * 2048, 0);
    image
}

/// 40 KiB.
pub(super) fn udf() -> Vec<u8> {
    let mut image = vec![0; 40 * 1024];
    for (index, name) in [b"BEA01", b"NSR02", b"TEA01"].into_iter().enumerate() {
        put(&mut image, 32 * 1024 + index * 2048 + 1, name);
    }
    image
}

/// 4 KiB, with the mark of a boot sector.
pub(super) fn raw() -> Vec<u8> {
    let mut image = vec![0xfa; 4096];
    put(&mut image, 510, &[0x55, 0xaa]);
    image
}
