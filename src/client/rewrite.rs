//! Have a registry of DVCR store its blobs in another way: an extension, which others do not have.

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{Client, ClientError, Events};
use crate::oci::{Digest, RegistryHost};

/// What happens, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum RewriteEvent {
    /// So many blobs have been looked at, to find out what is to be done.
    Looks {
        /// Blobs.
        looked: u64,
    },
    /// So much is to be done.
    Begins {
        /// Blobs.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// So many bytes of the blob at hand have passed.
    Passes {
        /// Bytes.
        passed: u64,
    },
    /// A blob is done.
    Blob {
        /// Which.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// What was done.
        outcome: RewriteOutcome,
        /// Why it failed.
        error: Option<String>,
    },
    /// It cannot be found out what is to be done.
    Fails {
        /// Why.
        error: String,
    },
}

/// What was done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RewriteOutcome {
    /// It is stored in the other way now.
    Rewritten,
    /// It cannot be, because it is compressed.
    Unchanged,
    /// It is as it was.
    Failed,
}

impl Client {
    /// Has a registry store its blobs in a form: `chunks`, `whole` or `dense`. It ends when nobody reads what happens any more.
    pub async fn rewrite(
        &self,
        registry: &RegistryHost,
        form: &str,
    ) -> Result<Events<RewriteEvent>, ClientError> {
        let asker = self.registry(registry)?;
        let mut url = asker.registry_url("_dvcr/storage/rewrite")?;
        url.query_pairs_mut().append_pair("to", form);
        let response = asker.ask_once(&asker.bare(Method::POST, url), "registry:catalog:*").await?;
        let response = asker.expect(response, &[StatusCode::OK], || registry.to_string()).await?;
        Ok(Events::of(response))
    }
}
