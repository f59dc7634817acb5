//! Have a registry of DVCR store its blobs in another way: an extension, which others do not have.

use bytes::{Buf as _, BytesMut};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{Client, ClientError, Response};
use crate::oci::{Digest, RegistryHost};

/// What happens, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum RewriteEvent {
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

/// What a registry tells while it rewrites.
#[derive(Debug)]
pub struct Rewrite {
    response: Response,
    come: BytesMut,
}

/// The longest line that is read.
const LINE: usize = 64 << 10;

impl Client {
    /// Has a registry store its blobs in a form, `chunks` or `whole`. It ends when nobody reads what happens any more.
    pub async fn rewrite(&self, registry: &RegistryHost, form: &str) -> Result<Rewrite, ClientError> {
        let asker = self.registry(registry)?;
        let mut url = asker.registry_url("_dvcr/storage/rewrite")?;
        url.query_pairs_mut().append_pair("to", form);
        let response = asker.ask_once(&asker.bare(Method::POST, url), "registry:catalog:*").await?;
        let response = asker.expect(response, &[StatusCode::OK], || registry.to_string()).await?;
        Ok(Rewrite { response, come: BytesMut::new() })
    }
}

impl Rewrite {
    /// What happens next; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<RewriteEvent>, ClientError> {
        loop {
            if let Some(end) = self.come.iter().position(|&byte| byte == b'\n') {
                let line = self.come.split_to(end);
                self.come.advance(1);
                let wrong = |_| self.response.protocol("a line that does not parse");
                return serde_json::from_slice(&line).map(Some).map_err(wrong);
            }
            match self.response.piece().await? {
                Some(piece) if self.come.len() < LINE => self.come.extend_from_slice(&piece),
                Some(_) => return Err(self.response.protocol("a line without end")),
                None if self.come.is_empty() => return Ok(None),
                None => return Err(self.response.protocol("the last line is not whole")),
            }
        }
    }
}
