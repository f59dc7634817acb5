//! [`recognise()`]: the format of an image by its marks.
//!
//! Marks at the very beginning decide before those further in, as they do for QEMU.

use super::{Format, iso, vdi, vhd, vhdx, vmdk};

/// The format by the first bytes (as many as there are, [`HEAD`](super::HEAD) of them if possible) and, for a fixed
/// VHD whose only mark is a footer, the last 512 if at hand.
///
/// What has no mark is [`Format::Raw`]; only a [`Probe`](super::Probe) tells whether it may be a disk at all.
#[must_use]
pub fn recognise(head: &[u8], tail: Option<&[u8]>) -> Format {
    if let Some(format) = by_first_bytes(head) {
        format
    } else if iso::is_iso(head) {
        Format::Iso
    } else if tail.is_some_and(|tail| vhd::fixed_footer(tail).is_some()) {
        Format::Vhd
    } else {
        Format::Raw
    }
}

/// The format, if a mark in the first 512 bytes tells it.
pub(super) fn by_first_bytes(head: &[u8]) -> Option<Format> {
    if head.starts_with(b"QFI\xfb") {
        Some(Format::Qcow2)
    } else if vmdk::is_vmdk(head) {
        Some(Format::Vmdk)
    } else if head.starts_with(vhdx::SIGNATURE) {
        Some(Format::Vhdx)
    } else if head.starts_with(vhd::COOKIE) {
        Some(Format::Vhd)
    } else if vdi::is_vdi(head) {
        Some(Format::Vdi)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeds;
    use super::*;

    #[test]
    fn each_format_is_known_by_its_content() {
        for seed in seeds::all() {
            let head = &seed.bytes[..seed.bytes.len().min(super::super::HEAD)];
            let tail = seed.bytes.last_chunk::<512>().map(<[u8; 512]>::as_slice);
            assert_eq!(recognise(head, tail), seed.disk.format, "{}", seed.name);
        }
    }

    #[test]
    fn bytes_without_a_mark_are_raw() {
        assert_eq!(recognise(&[], None), Format::Raw);
        assert_eq!(recognise(&[0; 512], Some(&[0; 512])), Format::Raw);
        assert_eq!(recognise(b"conect", Some(b"conectix")), Format::Raw);
    }
}
