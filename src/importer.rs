//! From a source to a disk image on a registry: fetched, expanded, checked, hashed and stored in one go.
//!
//! **The rule.** The layer is a tar, whose header gives the size of the disk before its first byte. Where the
//! size is known ahead (a plain file, an xz index, a zstd frame, the end of a gzip) one pass does everything. Where
//! it is not, or was told wrong, the first pass measures and the second writes; never is there a copy on
//! disk, and memory is bounded. A pipe cannot be read twice, so its bytes wait in the registry as an untagged blob.
//!
//! **Nothing is named before all is right.** The layer's upload is finished only when the source has ended
//! well, every checksum fits, and the disk was found whole and safe; then come config, manifest and tag. A
//! refusal takes the upload back.
//!
//! **What is there is not sent.** When the repository has a layer of the same size that begins alike, the
//! first pass only hashes; if the digests agree, nothing is uploaded.

mod cause;
mod checksum;
mod ending;
mod error;
mod examine;
mod gauge;
mod import;
mod journal;
mod known;
mod normalise;
mod options;
mod pass;
mod progress;
mod source;
mod spool;
mod upload;

pub use cause::Cause;
pub use checksum::{Checksum, ChecksumAlgorithm, InvalidChecksum};
pub use ending::Ending;
pub use error::{ImportError, SourceError};
pub use gauge::{Gauge, Meter, per_second, ratio};
pub use import::{Imported, Importer};
pub use journal::Journal;
pub use options::ImportOptions;
pub use progress::{Phase, Progress};
pub use source::{
    FileSource, HttpSource, NormalisedSource, PipeSource, RegistrySource, Source, SpooledSource,
    UploadedSource,
};
