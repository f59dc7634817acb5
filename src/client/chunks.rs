//! Which chunks a blob is made of: an extension of DVCR's, which other registries do not have.

use bytes::BytesMut;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use super::{ClientError, Repository};
use crate::chunk::{BLOCK, LISTING, Listed, MAX_CHUNK};
use crate::oci::Digest;

/// Entries that a listing may have beside one for each block of the blob.
const MORE: u64 = 1024;

/// Entries that a listing may have, however large the blob is: those of some 600 GB, in 800 MB of memory.
const MOST: u64 = 16 << 20;

impl Repository {
    /// The chunks of a blob of `size` bytes, in order; `None` from a registry that does not tell, or tells of another blob.
    pub async fn chunks(&self, digest: &Digest, size: u64) -> Result<Option<Vec<Listed>>, ClientError> {
        let url = self.url(&format!("_dvcr/chunks/{digest}"))?;
        let mut response = self.ask(&self.bare(Method::GET, url), "pull").await?;
        if response.status() != StatusCode::OK || response.header(&CONTENT_TYPE) != Some(LISTING) {
            return Ok(None);
        }
        let most = MOST.min(size / BLOCK as u64 + MORE);
        let (mut come, mut found, mut length) = (BytesMut::new(), Vec::new(), 0_u64);
        while let Some(piece) = response.piece().await? {
            come.extend_from_slice(&piece);
            loop {
                match Listed::decode(&mut come) {
                    Ok(Some(Listed::Chunk { length, .. })) if length > MAX_CHUNK.into() => return Ok(None),
                    Ok(Some(entry)) if entry.length() == 0 => return Ok(None),
                    Ok(Some(entry)) => {
                        length = length.saturating_add(entry.length());
                        found.push(entry);
                    }
                    Ok(None) => break,
                    Err(_) => return Ok(None),
                }
                if length > size || found.len() as u64 > most {
                    return Ok(None);
                }
            }
        }
        Ok((come.is_empty() && length == size).then_some(found))
    }
}
