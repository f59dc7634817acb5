//! [`Ending`]: how an import has ended, as one process tells another.

use serde::{Deserialize, Serialize};

use super::{Cause, ImportError};

/// Characters of an error that are told: a pod's last word has 4096 bytes at most.
const LONGEST: usize = 1000;

/// How an import has ended, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Bytes that were read of the source, those that were read again too.
    pub read: u64,
    /// Why it failed, in a word of [`Cause`]; nothing when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Why it failed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Ending {
    /// Of an import that has read so much.
    #[must_use]
    pub fn of(read: u64, error: Option<&ImportError>) -> Self {
        let cause = error.map(|error| error.cause().as_str().to_owned());
        let error = error.map(|error| error.to_string().chars().take(LONGEST).collect());
        Self { read, cause, error }
    }

    /// Why it failed; [`Cause::Other`] where that is not said.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause.as_deref().map_or(Cause::Other, Cause::of)
    }
}
