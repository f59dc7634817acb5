//! [`Admission`]: whether somebody may have an object be what they want it to be, beyond what its schema says.
//!
//! Kubernetes calls this an admission plugin. Whoever may write objects of a kind may do so; what an object *names* may be something that
//! its writer may not have, and only those who gave the kind its meaning know that. It is asked for the object as it would be stored,
//! whichever verb has brought it, also by a dry run.

use std::fmt;
use std::sync::Arc;

use axum::http::Extensions;
use serde_json::Value;

/// What objects may be, by who writes them.
pub trait Admission: fmt::Debug + Send + Sync {
    /// Why an object of this kind may not become `new`, which is valid, in place of `old`; as a part of a sentence. `asker` is what the
    /// request carries: what others have found out about who sends it.
    fn refuses(&self, asker: &Extensions, kind: &str, old: Option<&Value>, new: &Value) -> Option<String>;
}

/// The same for one request.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) admission: Arc<dyn Admission>,
    pub(super) asker: Extensions,
}

impl Asked {
    pub(super) fn refuses(&self, kind: &str, old: Option<&Value>, new: &Value) -> Option<String> {
        self.admission.refuses(&self.asker, kind, old, new)
    }
}
