//! Kubernetes object semantics as pure functions over JSON.
//!
//! What an API server does to an object between the HTTP body and the store: structural schemas (prune, default,
//! validate), server-side apply with field ownership, the patch types, tables, selectors and name rules. No I/O, no
//! clock and no async: the caller passes the time in, so that every answer can be reproduced in a test.

pub mod apply;
pub mod depth;
pub mod json_path;
pub mod name;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod table;

pub use apply::{Conflict, Manager, apply, track_update};
pub use json_path::{JsonPath, JsonPathError};
pub use patch::{PatchError, json_patch, merge_patch, strategic_merge_patch};
pub use quantity::Quantity;
pub use schema::{Cause, CauseReason, Schema, SchemaError};
pub use selector::{FieldRequirement, FieldSelector, LabelSelector, SelectorError};
pub use table::{Column, IncludeObject, age, table};
