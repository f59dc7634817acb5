//! [`LayerShape`]: the tar around a disk's bytes, as the few hundred bytes before and behind them.
//!
//! One regular file, uid and gid 107 (qemu's, as KubeVirt documents it), mode 0444, all times zero, no
//! directory entry, no leading slash. A file over 8 GiB has its size in base 256, which every reader of
//! layers knows.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use tar::{EntryType, Header};

/// Tar counts in blocks.
const BLOCK: u64 = 512;
/// Two zero blocks say that the archive is complete; containerd's erofs differ insists on them.
const END: u64 = 2 * BLOCK;

/// The name of a disk's file below `disk/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName(Box<str>);

/// The text cannot name a disk's file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid file name {text:?}: {reason}")]
pub struct InvalidFileName {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FileName {
    /// The name without its folder.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in the layer.
    #[must_use]
    pub fn path(&self) -> String {
        format!("disk/{}", self.0)
    }
}

impl FromStr for FileName {
    type Err = InvalidFileName;

    fn from_str(text: &str) -> Result<Self, InvalidFileName> {
        let invalid = |reason| InvalidFileName { text: text.chars().take(100).collect(), reason };
        // What a plain tar header holds behind `disk/`.
        if text.is_empty() || text.len() > 95 {
            return Err(invalid("it must have 1 to 95 bytes"));
        }
        if text.starts_with('.') {
            return Err(invalid("it must not begin with a dot: layers give such names a meaning (.wh.)"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'\\') {
            return Err(invalid(
                "it may have letters, digits and signs of ASCII other than slashes and blanks",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The layer of a file of known name and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerShape {
    header: Bytes,
    size: u64,
}

impl LayerShape {
    /// Bytes before the file.
    pub const HEADER: u64 = BLOCK;

    /// The shape of a layer by its first bytes, if it is exactly what would be written for a file called `name`.
    #[must_use]
    pub fn of_layer(name: &FileName, start: &[u8]) -> Option<Self> {
        let header = start.get(..512)?;
        let size = Header::from_byte_slice(header).entry_size().ok()?;
        let shape = Self::new(name, size);
        (shape.header[..] == *header).then_some(shape)
    }

    /// The layer of `size` bytes in a file called `name`.
    #[must_use]
    pub fn new(name: &FileName, size: u64) -> Self {
        let mut header = Header::new_gnu();
        // A `FileName` always fits; a header without a name would be a broken layer, and a test reads names back.
        let _ = header.set_path(name.path());
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o444);
        header.set_uid(107);
        header.set_gid(107);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        Self { header: Bytes::copy_from_slice(header.as_bytes()), size }
    }

    /// What stands before the disk.
    #[must_use]
    pub fn header(&self) -> Bytes {
        self.header.clone()
    }

    /// What stands behind the disk: zeros up to a full block, and the end of the archive.
    #[must_use]
    pub fn trailer(&self) -> Bytes {
        let length = self.size.next_multiple_of(BLOCK) - self.size + END;
        Bytes::from(vec![0; usize::try_from(length).unwrap_or_default()])
    }

    /// Bytes of the file.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        self.size
    }

    /// Bytes of the layer.
    #[must_use]
    pub fn layer_size(&self) -> u64 {
        BLOCK + self.size.next_multiple_of(BLOCK) + END
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn layer(name: &str, content: &[u8]) -> Vec<u8> {
        let shape = LayerShape::new(&name.parse().unwrap(), content.len() as u64);
        let layer = [&shape.header()[..], content, &shape.trailer()].concat();
        assert_eq!(layer.len() as u64, shape.layer_size());
        layer
    }

    #[test]
    fn a_layer_is_a_tar_with_one_plain_file() {
        for size in [1, 511, 512, 513, 4096] {
            let content = vec![7; size];
            let layer = layer("disk.raw", &content);
            let mut archive = tar::Archive::new(&layer[..]);
            let mut entries = archive.entries().unwrap();
            let mut entry = entries.next().unwrap().unwrap();
            assert_eq!(entry.path().unwrap().to_str(), Some("disk/disk.raw"));
            assert_eq!(entry.header().mode().unwrap(), 0o444);
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (107, 107));
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let mut read = Vec::new();
            entry.read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
            drop(entry);
            assert!(entries.next().is_none());
        }
    }

    #[test]
    fn sizes_over_8_gib_are_told_right() {
        let size = (100 << 30) + 1;
        let shape = LayerShape::new(&"disk.raw".parse().unwrap(), size);
        let header = shape.header();
        let header = Header::from_byte_slice(&header);
        assert_eq!(header.entry_size().unwrap(), size);
        assert_eq!(shape.layer_size(), 512 + (100 << 30) + 512 + 1024);
    }

    #[test]
    fn a_layer_is_known_by_its_first_bytes() {
        let name = "disk.raw".parse().unwrap();
        let layer = layer("disk.raw", &[7; 1000]);
        let shape = LayerShape::of_layer(&name, &layer).unwrap();
        assert_eq!(shape, LayerShape::new(&name, 1000));
        assert_eq!(LayerShape::of_layer(&"other.raw".parse().unwrap(), &layer), None);
        assert_eq!(LayerShape::of_layer(&name, &layer[..511]), None);
        assert_eq!(LayerShape::of_layer(&name, &[0xff; 512]), None);
    }

    #[test]
    fn a_name_that_means_something_else_in_a_layer_is_refused() {
        for text in ["", ".", "..", ".wh.disk", "a/b", "a b", "é", "a\0", &"x".repeat(96)] {
            assert!(text.parse::<FileName>().is_err(), "{text:?} was accepted");
        }
        let longest = "x".repeat(95);
        let layer = layer(&longest, b"x");
        let mut archive = tar::Archive::new(&layer[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some(format!("disk/{longest}").as_str()));
    }
}
