//! From a disk image on a registry to a file, a block device or a stream.
//!
//! What comes out is the disk, not the tar around it. Zero runs become holes in a file and discards on a device.
//! A file appears under its name only when the whole image was read and had its digest; a device or a
//! stream has been written by then, and the failure is all there is to say so.

mod destination;
mod error;
mod export;
mod volume;

pub use destination::Destination;
pub use error::ExportError;
pub use export::{ExportOptions, Exported, Exporter};
pub use volume::{Missing, copy_volume, grow_volume, make_blank};
