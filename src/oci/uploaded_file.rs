//! How a registry keeps a file that somebody uploaded through `/upload`, or that came through a pipe, until an import has
//! taken it.
//!
//! The file is a blob with a [`salt`] ahead of it: the blob is removed in the end, and must not be one that somebody else
//! has. A manifest refers to one that was uploaded, so that nothing collects it before its time.

use uuid::Uuid;

/// The repository of uploaded files. Tags are the ids of the images that they are for.
pub const UPLOADED_FILES: &str = "uploads";

/// Bytes of a [`salt`].
pub const SALT: u64 = 4096;

/// What stands ahead of a file: two random ids, and zeros up to a block of a disk, so that the file is cut into the same
/// chunks as the layer that is made of it, and is stored once.
#[must_use]
pub fn salt() -> Vec<u8> {
    let mut salt = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    salt.resize(usize::try_from(SALT).unwrap_or(0), 0);
    salt
}

/// The type of the manifest.
pub const UPLOADED_FILE: &str = "application/vnd.dvcr.uploaded-file.v1";

/// The type of the blob.
pub const SALTED_FILE: &str = "application/vnd.dvcr.salted-file.v1";
