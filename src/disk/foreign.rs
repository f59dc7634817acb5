//! What is plainly no disk: pages and messages that were downloaded in place of an image, archives around one, and
//! formats that would be mistaken for raw.

use super::{Compression, Refusal};

/// Images of text alone are refused below this many bytes; a longer one is somebody's data.
const TEXT: usize = 64 * 1024;

const UNPACK: &str = "unpack it, and push the disk inside";
const DOWNLOAD: &str =
    "look at it: the server that it came from may have sent an error in place of the image";
const TWICE: &str = "it was compressed twice; take off one layer";
const CONVERT: &str = "convert it with `qemu-img convert -O qcow2`";

/// Where a mark lies, the mark, what it marks, and the way out.
const MARKS: [(usize, &[u8], &str, &str); 17] = [
    (257, b"ustar", "a tar archive or an OVA", UNPACK),
    (0, b"PK\x03\x04", "a zip archive", UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", UNPACK),
    (0, b"xar!", "a xar archive", UNPACK),
    (0, b"MSCF\0\0\0\0", "a cabinet archive", UNPACK),
    (0, b"MSWIM\0\0\0", "a Windows image (WIM) of files", "apply it to a disk, and push the disk"),
    (0, b"\x04\x22\x4d\x18", "an lz4 stream", "lz4 is not supported: compress it with zstd"),
    (0, b"LZIP", "an lzip stream", "lzip is not supported: compress it with xz"),
    (0, b"070701", "a cpio archive", UNPACK),
    (0, b"QED\0", "a QED image", CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels image", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", CONVERT),
    (0, b"Bochs Virtual HD Image", "a Bochs image", CONVERT),
    (0, b"OOOM", "a User-mode Linux COW image", CONVERT),
    (0, b"<?xml", "an XML document", DOWNLOAD),
];

/// How web pages begin, in lower case.
const PAGES: [&[u8]; 5] = [b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml"];

/// Refuses an image that begins with `head`, that no format claims and that is plainly no disk.
///
/// A head shorter than [`HEAD`](super::HEAD) is all of the image.
pub(super) fn refuse(head: &[u8]) -> Result<(), Refusal> {
    for (at, mark, what, advice) in MARKS {
        if head.get(at..).is_some_and(|rest| rest.starts_with(mark)) {
            return Err(Refusal::NotADisk { what, advice });
        }
    }
    let what = match Compression::detect(head) {
        Compression::Gzip => "a gzip stream",
        Compression::Xz => "an xz stream",
        Compression::Zstd => "a zstd stream",
        Compression::Bzip2 => "a bzip2 stream",
        Compression::None => return refuse_text(head),
    };
    Err(Refusal::NotADisk { what, advice: TWICE })
}

fn refuse_text(head: &[u8]) -> Result<(), Refusal> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let page =
        PAGES.iter().any(|page| text.get(..page.len()).is_some_and(|start| start.eq_ignore_ascii_case(page)));
    if page {
        return Err(Refusal::NotADisk { what: "a web page or XML document", advice: DOWNLOAD });
    }
    if head.len() < TEXT && is_text(head) {
        let json = matches!(text.first(), Some(b'{' | b'['));
        let what = if json { "a JSON document" } else { "a text file" };
        return Err(Refusal::NotADisk { what, advice: DOWNLOAD });
    }
    Ok(())
}

/// Whether every character can be printed or parts lines and columns.
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes)
        .is_ok_and(|text| text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0c')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(bytes: &[u8]) -> Option<&'static str> {
        match refuse(bytes) {
            Err(Refusal::NotADisk { what, .. }) => Some(what),
            _ => None,
        }
    }

    #[test]
    fn a_page_in_place_of_an_image_is_refused() {
        assert_eq!(what(b"\xef\xbb\xbf\r\n <!DOCTYPE HTML><title>404"), Some("a web page or XML document"));
        assert_eq!(what(b"<HTML>\0"), Some("a web page or XML document"));
        assert_eq!(what(b"<?xml version='1.0'?><Error/>"), Some("an XML document"));
        assert_eq!(what(br#"{"error": "not found"}"#), Some("a JSON document"));
        assert_eq!(what("Zugriff für Gäste verweigert\n".as_bytes()), Some("a text file"));
    }

    #[test]
    fn an_archive_is_refused() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(what(&tar), Some("a tar archive or an OVA"));
        assert_eq!(what(b"PK\x03\x04\x14\0\0"), Some("a zip archive"));
        assert_eq!(what(&[0x1f, 0x8b, 8, 0, 0, 0]), Some("a gzip stream"));
    }

    #[test]
    fn bytes_that_no_rule_knows_may_be_a_raw_disk() {
        assert_eq!(what(&[0; 512]), None);
        assert_eq!(what(b"text\0with a zero"), None);
        assert_eq!(what(&vec![b'a'; 64 * 1024]), None);
    }
}
