//! [`ClientError`]: why a registry or another server could not be spoken to.

use std::time::Duration;

use reqwest::StatusCode;

use super::RefusedAddress;
use crate::oci::Digest;

/// A request failed. `url` never holds user info, query or fragment, which may be secret.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer, or not all of it.
    #[error("{url}: {}", causes(source))]
    Http {
        /// What was asked.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("{url}: silent for {} seconds", patience.as_secs())]
    Silent {
        /// What was asked.
        url: String,
        /// For how long it may be silent.
        patience: Duration,
    },
    /// The body ended before it was complete.
    #[error("{url}: the connection ended after {got} of {expected} bytes")]
    Short {
        /// What was asked.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// An answer other than success.
    #[error("{url}: {status}{}{message}", if message.is_empty() { "" } else { ": " })]
    Status {
        /// What was asked.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What the server says about it; for registries code and message.
        message: String,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The registry does not let us.
    #[error("{registry}: {reason}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// What it wants, or says.
        reason: String,
    },
    /// There is no such thing.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// What came is not what was asked for.
    #[error("{what} is damaged: it should be {expected} and is {actual}")]
    WrongDigest {
        /// What it is.
        what: String,
        /// Its name.
        expected: Digest,
        /// Its content.
        actual: Digest,
    },
    /// The server's answer makes no sense.
    #[error("{url}: {reason}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The address is one that must not be spoken to.
    #[error(transparent)]
    Refused(#[from] RefusedAddress),
    /// A redirect leads to a redirect, and so on.
    #[error("{url}: gave up after {count} redirects")]
    Redirects {
        /// What was asked at first.
        url: String,
        /// How many were followed.
        count: usize,
    },
    /// Credentials are configured but cannot be used.
    #[error("cannot get the credentials for {registry}: {reason}")]
    Credentials {
        /// For which registry.
        registry: String,
        /// Why not.
        reason: String,
    },
    /// The client cannot be set up.
    #[error("{0}")]
    Setup(String),
}

impl ClientError {
    /// Whether the same request may work a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            // A request that cannot be built or a certificate that is not trusted stays so.
            Self::Http { source, .. } => !source.is_builder() && !is_certificate(source),
            Self::Silent { .. } | Self::Short { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            _ => false,
        }
    }

    /// Whether another try can never help, because what was asked for is itself bad or forbidden.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::WrongDigest { .. } | Self::Refused(_))
    }

    /// Whether a registry has judged an upload, and found it to be another blob than it was called.
    #[must_use]
    pub fn is_wrong_digest(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::BAD_REQUEST)
    }

    /// The error of a request to `url`, or the egress rule's where that is its cause.
    pub(super) fn of(url: &url::Url, error: reqwest::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
        while let Some(inner) = cause {
            if let Some(refused) = inner.downcast_ref::<RefusedAddress>() {
                return Self::Refused(refused.clone());
            }
            cause = inner.source();
        }
        Self::Http { url: super::transport::redacted(url), source: error.without_url() }
    }
}

/// Whether the server's certificate is the problem.
fn is_certificate(error: &reqwest::Error) -> bool {
    causes(error).contains("certificate")
}

/// An error with its causes on one line; reqwest alone says little more than that it failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |e| e.source()) {
        let text = cause.to_string();
        // Wrappers like to repeat what they wrap.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
