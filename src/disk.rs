//! What a stream of bytes is as a disk: its format, the size a guest sees, and whether it is safe and whole.
//!
//! Everything is judged by content, never by a name, and without I/O of its own: bytes are handed in as they pass
//! by, once and in order. The bytes are hostile until proven otherwise, so nothing here panics, follows a reference
//! to another file, or takes memory by a number found in a header; a [`Probe`] holds at most a few MiB. What it
//! cannot vouch for it refuses, with a [`Refusal`] that says what to do about it.
//!
//! Around a disk there may be one outer [`Compression`]: [`Expander`] reads through it, and [`ExpandedSize`] tells
//! beforehand how much will come out.

mod codec;
mod compression;
mod expanded_size;
mod expander;
mod fields;
mod foreign;
mod format;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_streams;
mod inspect;
mod iso;
mod probe;
mod qcow2;
mod qcow2_header;
mod raw;
mod recognise;
mod refusal;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod squeeze;
mod vdi;
mod vhd;
mod vhdx;
mod vhdx_metadata;
mod vmdk;
mod vmdk_descriptor;
mod xz_index;

pub use compression::Compression;
pub use expanded_size::{ExpandedSize, Step};
pub use expander::Expander;
pub use format::{Format, UnknownFormat};
pub use probe::Probe;
pub use recognise::recognise;
pub use refusal::Refusal;

/// Bytes of head that [`recognise()`] and [`Probe`] want: enough for the volume descriptors of an ISO (from 32 KiB on)
/// and for all headers of a VHDX (up to 320 KiB).
pub const HEAD: usize = 320 * 1024;

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Disk {
    /// How the disk is laid out in the file.
    pub format: Format,
    /// Bytes that a guest sees.
    pub virtual_size: u64,
}

/// What is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that a guest may see.
    pub virtual_size: u64,
    /// Bytes that may come out of a compressed stream.
    pub expanded_size: u64,
    /// How many bytes may come out of a compressed stream for each byte that went in. It is judged only once 1 GiB
    /// came out, because small images of zeros compress very well and do no harm.
    pub ratio: u64,
}

impl Default for Limits {
    /// 64 TiB seen by the guest, 16 TiB expanded, 2048 bytes out for each byte in: twice what gzip can reach.
    fn default() -> Self {
        Self { virtual_size: 64 << 40, expanded_size: 16 << 40, ratio: 2048 }
    }
}

/// How closely a [`Probe`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Depth {
    /// The headers, and whether what they point at lies within the file.
    Header,
    /// Also the tables that say where each block of the disk lies, so that an image which lost its end is found out.
    Full,
}
