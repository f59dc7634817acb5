//! What a registry asks of a store, and who can give it.
//!
//! The [`Store`] trait is the whole seam: small objects that are put, read, listed and deleted whole, and
//! *data objects* that are written once, as a stream, and read by range. Nothing else is asked for: no rename, no
//! server-side copy, no append to a published object, no transaction. That is what lets the same engine
//! run on a directory and on a bucket without a word of either.
//!
//! Three promises hold on every backend, and `contract` (the suite behind the feature of that name)
//! proves them:
//!
//! 1. A small object is there whole or not at all, and once `put` has returned it survives a power cut.
//! 2. A folder lists in byte order, and from any given key on.
//! 3. A data object's bytes are sent to the medium once. They are not visible as an object, or at least
//!    not referred to by anyone, before [`DataWriter::seal`] returns.
//!
//! This crate knows nothing of OCI or of disks.

mod bucket;
mod capability;
mod data;
mod error;
mod filesystem;
mod key;
mod location;
mod lock;
pub mod measure;
mod memory;
mod s3;
mod store;

#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "contract")]
pub mod count;
#[cfg(feature = "contract")]
pub mod dawdle;
#[cfg(feature = "contract")]
pub mod fault;

pub use bucket::Bucket;
pub use capability::Capabilities;
pub use data::{DataWriter, Paused, Resumed, WriterState};
pub use error::{Error, Result};
pub use filesystem::Filesystem;
pub use key::{InvalidKey, Key};
pub use location::{Location, UnknownLocation};
pub use memory::{Memory, MemoryOptions};
pub use s3::{S3, S3Options};
pub use store::{ByteStream, Condition, Entry, EntryStream, Object, Store, Version};
