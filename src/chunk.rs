//! A blob as chunks, so that what two disks have in common is stored once.
//!
//! Pure: bytes in, parts out, and no storage. [`Splitter`] is the way in; a chunk is called by a [`ChunkId`] and kept as
//! [`Encoder`] makes it. The splitter finds the files in a blob that is a tar ([`TarRegions`]), so that a disk is cut alike
//! whatever stands before it, and cuts each by its content ([`Cutter`]), so that blocks that moved are found again. The parts
//! of a blob, one behind the other, are the blob, whatever it is; where they end depends on its content and not on how it
//! arrived.
//!
//! How content is cut is not part of any stored format: a store may hold chunks that were cut in different ways. But
//! chunks that are cut differently do not meet, so every change of [`Sizes::STORED`], of the hash of a block or of what
//! counts as a file makes everything that comes after it new once.

mod block;
mod codec;
mod compressed;
mod cutter;
mod delta;
mod id;
mod listing;
mod sizes;
mod splitter;
mod tar_regions;
mod zeros;

pub use block::BLOCK;
pub use codec::{DamagedChunk, Decoder, Encoder};
pub use compressed::is_compressed;
pub use cutter::{Cut, Cutter};
pub use delta::{DELTA, Frame, InvalidFrame, MAX_FRAME};
pub use id::ChunkId;
pub use listing::{InvalidListing, LISTING, Listed};
pub use sizes::{InvalidSizes, Sizes};
pub use splitter::{Part, Splitter};
pub use tar_regions::{Region, TarRegions};
pub use zeros::zeros;

/// No chunk is longer, whatever cut it: so much memory is what reading one takes.
pub const MAX_CHUNK: u32 = 16 << 20;
