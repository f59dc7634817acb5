//! How a registry keeps a file that somebody uploaded through `/upload`, until an import has taken it.
//!
//! The file is a blob with random bytes ahead of it: the blob is removed in the end, and must not be one that
//! somebody else has. A manifest refers to it, so that nothing collects it before its time.

/// The repository of uploaded files. Tags are the ids of the images that they are for.
pub const UPLOADED_FILES: &str = "uploads";

/// Bytes ahead of the file: random ones, and zeros up to a block of a disk, so that the file is cut into the same chunks
/// as the layer that is made of it, and is stored once.
pub const SALT: u64 = 4096;

/// The type of the manifest.
pub const UPLOADED_FILE: &str = "application/vnd.dvcr.uploaded-file.v1";

/// The type of the blob.
pub const SALTED_FILE: &str = "application/vnd.dvcr.salted-file.v1";
