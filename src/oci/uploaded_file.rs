//! How a registry keeps a file that somebody uploaded through `/upload`, or that came through a pipe, until an import has
//! taken it.
//!
//! The file is a blob with a [`salt`] ahead of it: the blob is removed in the end, and must not be one that somebody else
//! has. A manifest refers to one that was uploaded, so that nothing collects it before its time. Each has a repository of its own,
//! so that whoever imports it is let in to it alone.

use uuid::Uuid;

use super::{RepositoryName, Tag};

/// What the names of the repositories begin with.
const UPLOADED_FILES: &str = "uploads";

/// All repositories of uploaded files, as a pattern.
pub const ALL_UPLOADED_FILES: &str = "uploads/*";

/// The repository of the file that was uploaded for the image with this id.
#[must_use]
pub fn uploaded_file(image: Uuid) -> RepositoryName {
    let name = format!("{UPLOADED_FILES}/{image}").parse();
    name.unwrap_or_else(|invalid| unreachable!("an id made an {invalid}"))
}

/// The tag of the file in its repository.
#[must_use]
pub fn uploaded_file_tag() -> Tag {
    "file".parse().unwrap_or_else(|invalid| unreachable!("a constant is an {invalid}"))
}

/// Whether a repository is one of an uploaded file.
#[must_use]
pub fn is_uploaded_file(repository: &str) -> bool {
    repository
        .strip_prefix(UPLOADED_FILES)
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|id| Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_of_an_uploaded_file_is_known_by_its_name() {
        let id = Uuid::new_v4();
        assert!(is_uploaded_file(uploaded_file(id).as_str()));
        for other in [
            "uploads",
            "uploads/mine",
            "uploadsx",
            &format!("uploads/{}", id.simple()),
            &format!("uploads/{id}/x"),
            &format!("vi/{id}"),
        ] {
            assert!(!is_uploaded_file(other), "{other}");
        }
    }
}
