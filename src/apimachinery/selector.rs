//! Label and field selectors of list, watch and deletecollection requests.
//!
//! A selector is parsed once and matched against many objects; what the grammar does not allow is refused with a
//! sentence that fits a 400 answer.

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector};
pub use label::LabelSelector;

/// Why a selector cannot be parsed; the sentence fits a 400 answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
