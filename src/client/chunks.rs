//! Which chunks a blob is made of: an extension of DVCR's, which other registries do not have.

use bytes::BytesMut;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use super::{ClientError, Repository, Response};
use crate::chunk::{BLOCK, LISTING, Listed, MAX_CHUNK};
use crate::oci::Digest;

/// Entries that a listing may have beside one for each block of the blob.
const MORE: u64 = 1024;

/// Entries that a listing may have, however large the blob is: those of some 600 GB, in 800 MB of memory.
const MOST: u64 = 16 << 20;

/// A listing, as it comes.
pub(super) struct Listing {
    response: Response,
    come: BytesMut,
    /// Bytes of the blob that are not listed yet.
    left: u64,
}

impl Repository {
    /// The chunks of a blob of `size` bytes, in order; `None` from a registry that does not tell, or tells of another blob.
    pub async fn chunks(&self, digest: &Digest, size: u64) -> Result<Option<Vec<Listed>>, ClientError> {
        let Some(mut listing) = self.listing(digest, size).await? else { return Ok(None) };
        let most = MOST.min(size / BLOCK as u64 + MORE);
        let mut found = Vec::new();
        while let Some(entry) = listing.next().await? {
            if found.len() as u64 == most {
                return Ok(None);
            }
            found.push(entry);
        }
        Ok(listing.is_whole().then_some(found))
    }

    /// Begins to list the chunks of a blob of `size` bytes; `None` from a registry that does not tell.
    pub(super) async fn listing(&self, digest: &Digest, size: u64) -> Result<Option<Listing>, ClientError> {
        let url = self.url(&format!("_dvcr/chunks/{digest}"))?;
        let response = self.ask(&self.bare(Method::GET, url), "pull").await?;
        let is_listing =
            response.status() == StatusCode::OK && response.header(&CONTENT_TYPE) == Some(LISTING);
        Ok(is_listing.then(|| Listing { response, come: BytesMut::new(), left: size }))
    }
}

impl Listing {
    /// The next entry; `None` at the end, and where it goes on with what cannot be.
    pub(super) async fn next(&mut self) -> Result<Option<Listed>, ClientError> {
        loop {
            match Listed::decode(&mut self.come) {
                Ok(Some(Listed::Chunk { length, .. })) if length > MAX_CHUNK.into() => return Ok(None),
                Ok(Some(entry)) if entry.length() == 0 || entry.length() > self.left => return Ok(None),
                Ok(Some(entry)) => {
                    self.left -= entry.length();
                    return Ok(Some(entry));
                }
                Ok(None) => {}
                Err(_) => return Ok(None),
            }
            match self.response.piece().await? {
                Some(piece) => self.come.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }

    /// Whether all of the blob has been listed, and nothing else.
    pub(super) fn is_whole(&self) -> bool {
        self.left == 0 && self.come.is_empty()
    }
}
