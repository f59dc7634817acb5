//! The patch types other than apply.
//!
//! A patch changes the target entirely or not at all, and its result never nests deeper than
//! [`MAX_DEPTH`](crate::apimachinery::depth::MAX_DEPTH): JSON Patch can copy a document into itself, so that a small request could
//! otherwise build an object of any size that nobody can read back.

mod json;
mod merge;
mod strategic;

pub use json::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge_patch;

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch document itself is wrong: answer 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (a failed `test`, a missing path): answer 422.
    #[error("{0}")]
    Inapplicable(String),
    /// The patch or its result is too large: answer 413.
    #[error("{0}")]
    TooLarge(String),
}
