//! What can go wrong with a store, as far as a caller can act on it.

use crate::Key;

/// The result of a storage operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A storage operation that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no object under the key.
    #[error("no object under {key}")]
    NotFound {
        /// What was asked for.
        key: Key,
    },
    /// `put` with [`Condition::Absent`](crate::Condition::Absent) met an object. It may be the caller's
    /// own, when the reply of an earlier attempt was lost.
    #[error("an object exists under {key}")]
    AlreadyExists {
        /// What was to be created.
        key: Key,
    },
    /// `put` with [`Condition::Unchanged`](crate::Condition::Unchanged) met another version.
    #[error("the object under {key} has changed meanwhile")]
    Changed {
        /// What was to be replaced.
        key: Key,
    },
    /// A suspended writer cannot go on: what it had written is gone or incomplete.
    #[error("the data written so far under {key} is lost: {reason}")]
    DataLost {
        /// The data object.
        key: Key,
        /// What was found.
        reason: String,
    },
    /// The medium is full.
    #[error("no space left in the store")]
    Full {
        /// The operating system's or the server's word for it.
        #[source]
        source: Source,
    },
    /// The store refuses what a configuration asks of it, or cannot be opened.
    #[error("{what}")]
    Unusable {
        /// What is wrong and the way out.
        what: String,
        /// Why, where something else said so.
        #[source]
        source: Option<Source>,
    },
    /// The store failed or cannot be reached. Trying again later may help.
    #[error("failed to {operation} {key}")]
    Unavailable {
        /// A verb, such as `read`.
        operation: &'static str,
        /// The object or prefix.
        key: String,
        /// The underlying failure.
        #[source]
        source: Source,
    },
}

impl Error {
    /// Whether what was stored is not there, or not whole: trying again does not help.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::DataLost { .. })
    }

    /// Whether a conditional write did not find what it was to find.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. } | Self::Changed { .. })
    }

    pub(crate) fn unusable(what: impl Into<String>) -> Self {
        Self::Unusable { what: what.into(), source: None }
    }

    pub(crate) fn unavailable(
        operation: &'static str,
        key: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        let source = source.into();
        if is_full(source.as_ref()) {
            return Self::Full { source };
        }
        Self::Unavailable { operation, key: key.into(), source }
    }

    /// The meaning of an `object_store` error for an operation on `key`. Written by hand, because only
    /// the caller knows whether "not found" is an answer or a fault.
    pub(crate) fn from_object_store(operation: &'static str, key: &Key, error: object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::NotFound { .. } => Self::NotFound { key: key.clone() },
            E::AlreadyExists { .. } => Self::AlreadyExists { key: key.clone() },
            E::Precondition { .. } => Self::Changed { key: key.clone() },
            other => Self::unavailable(operation, key.as_str(), other),
        }
    }
}

/// Whether the system says that there is no space, or no more for us.
pub(crate) fn is_out_of_space(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Whether "no space" is anywhere in the chain of causes: backends bury it under their own errors.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return is_out_of_space(io);
        }
        // Of what an S3 server answers there is only the text.
        e.is::<object_store::Error>() && FULL.iter().any(|code| e.to_string().contains(code))
    })
}

/// What S3 servers say of a full disk or a quota: AWS, Ceph and MinIO; and the status that [`crate::s3`] gives to "insufficient storage".
const FULL: [&str; 5] =
    ["413 Payload Too Large", "QuotaExceeded", "InsufficientCapacity", "StorageFull", "InsufficientStorage"];

#[cfg(test)]
mod tests {
    use super::*;

    fn of_a_server(answer: &str) -> Error {
        let source = object_store::Error::Generic { store: "S3", source: answer.to_owned().into() };
        Error::from_object_store("write", &Key::parse("a/b").unwrap(), source)
    }

    #[test]
    fn a_full_bucket_is_told_from_one_that_fails() {
        let quota = "status code: 403 Forbidden: <Error><Code>QuotaExceeded</Code></Error>";
        assert!(matches!(of_a_server(quota), Error::Full { .. }));
        assert!(matches!(of_a_server("status code: 413 Payload Too Large: "), Error::Full { .. }));
        let busy = "status code: 503 Service Unavailable: <Error><Code>SlowDown</Code></Error>";
        assert!(matches!(of_a_server(busy), Error::Unavailable { .. }));
    }
}
