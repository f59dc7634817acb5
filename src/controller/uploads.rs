//! [`Uploads`]: where users upload the files of images, and how far they are.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::crd::UploadUrls;
use super::image::ImageId;
use crate::client::{ClientError, Response, Transport};
use crate::oci::{RepositoryName, uploaded_file};
use crate::upload_token::UploadKey;

/// How much of an answer is read.
const ANSWER: usize = 4 << 10;

/// Where users upload the files of images.
#[derive(Debug, Clone)]
pub struct Uploads {
    /// What tokens are made with.
    pub key: UploadKey,
    /// How long an image waits to be uploaded.
    pub patience: Duration,
    /// Where the registry is for us.
    pub address: Url,
    /// Where it is from outside of the cluster.
    pub external: Option<Url>,
    /// Where it is in the cluster.
    pub in_cluster: Option<Url>,
    /// How it is asked.
    pub transport: Transport,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// So many bytes came, and nobody sends any.
    Waiting(u64),
    /// More are coming.
    Receiving {
        /// Bytes that came.
        length: u64,
        /// Bytes of the file, if the user's client knows.
        total: Option<u64>,
    },
    /// All came.
    Whole,
}

#[derive(Deserialize)]
struct Answer {
    state: String,
    offset: u64,
    total: Option<u64>,
}

impl Uploads {
    /// A new token for an image.
    pub fn token(&self, image: &ImageId) -> Result<String, ClientError> {
        let expires = SystemTime::now().checked_add(self.patience).unwrap_or_else(SystemTime::now);
        Ok(self.key.token(uid(image)?, expires))
    }

    /// The token in addresses that were published before, with the end of its time, if it is for this image.
    #[must_use]
    pub fn published(&self, image: &ImageId, urls: &UploadUrls) -> Option<(String, SystemTime)> {
        let url = urls.external.as_ref().or(urls.in_cluster.as_ref())?;
        let token = url.rsplit('/').next()?;
        let (id, expires) = self.key.read(token).ok()?;
        (Some(id) == uid(image).ok()).then(|| (token.to_owned(), expires))
    }

    /// The addresses with a token.
    #[must_use]
    pub fn urls(&self, token: &str) -> UploadUrls {
        let at = |base: &Option<Url>| base.as_ref().map(|base| with_token(base, token));
        UploadUrls { external: at(&self.external), in_cluster: at(&self.in_cluster) }
    }

    /// How far the upload of an image is.
    pub async fn look(&self, image: &ImageId) -> Result<Uploaded, ClientError> {
        let response = self.ask("GET", image, None).await?;
        let wrong = response.protocol("the registry says nothing about an upload");
        let answer: Answer = serde_json::from_slice(&response.body(ANSWER).await?).map_err(|_| wrong)?;
        Ok(match answer.state.as_str() {
            "received" => Uploaded::Whole,
            "receiving" => Uploaded::Receiving { length: answer.offset, total: answer.total },
            _ => Uploaded::Waiting(answer.offset),
        })
    }

    /// Removes what was uploaded for an image, so that it can be uploaded anew.
    pub async fn remove(&self, image: &ImageId) -> Result<(), ClientError> {
        self.ask("DELETE", image, None).await.map(drop)
    }

    /// Removes what was uploaded for an image, and takes nothing for it any more.
    pub async fn close(&self, image: &ImageId) -> Result<(), ClientError> {
        self.ask("DELETE", image, Some("close=true")).await.map(drop)
    }

    /// Where the file of an image is kept.
    pub fn repository(&self, image: &ImageId) -> Result<RepositoryName, ClientError> {
        Ok(uploaded_file(uid(image)?))
    }

    /// Asks with a token that opens the door for a moment: the user's may have expired.
    async fn ask(&self, method: &str, image: &ImageId, query: Option<&str>) -> Result<Response, ClientError> {
        let expires = SystemTime::now() + Duration::from_mins(1);
        let url = with_token(&self.address, &self.key.token(uid(image)?, expires));
        let setup = |error: String| ClientError::Setup(error);
        let method = method.parse().map_err(|_| setup(format!("{method} is no method")))?;
        let mut url: Url = url.parse().map_err(|error| setup(format!("{}: {error}", self.address)))?;
        url.set_query(query);
        let response = self.transport.request(method, url).await?;
        if response.status().is_success() { Ok(response) } else { Err(response.into_error().await) }
    }
}

fn with_token(base: &Url, token: &str) -> String {
    format!("{}/upload/{token}", base.as_str().trim_end_matches('/'))
}

fn uid(image: &ImageId) -> Result<Uuid, ClientError> {
    image.uid.parse().map_err(|_| ClientError::Setup(format!("the UID {:?} of {image} is none", image.uid)))
}
