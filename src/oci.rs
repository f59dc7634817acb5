//! The vocabulary of the OCI distribution and image specifications, as types that can only hold valid values.
//!
//! Text from a client becomes one of these at the edge, or an error; nothing behind the edge checks
//! again. No I/O, no HTTP, no storage.

mod digest;
mod image_reference;
mod manifest;
mod media_type;
mod name;
mod reference;
mod tag;
mod tag_pattern;
mod uploaded_file;
mod wildcard;

pub(crate) use digest::hex;
pub use digest::{Algorithm, Digest, Hasher, HasherState, InvalidDigest};
pub use image_reference::{ImageReference, InvalidHost, InvalidImageReference, RegistryHost};
pub use manifest::{Blob, InvalidManifest, Manifest, Referrer};
pub use media_type::{InvalidMediaType, MediaType};
pub use name::{InvalidName, RepositoryName};
pub use oci_spec::distribution::ErrorCode;
pub use reference::{InvalidReference, Reference};
pub use tag::{InvalidTag, Tag};
pub use tag_pattern::{InvalidTagPattern, TagPattern};
pub use uploaded_file::{
    ALL_UPLOADED_FILES, SALT, SALTED_FILE, UPLOADED_FILE, is_uploaded_file, salt, uploaded_file,
    uploaded_file_tag,
};
pub(crate) use wildcard::in_order;
