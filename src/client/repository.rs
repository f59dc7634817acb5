//! [`Repository`]: the requests of the distribution specification to one repository, one method each.

use std::ops::Range;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use url::Url;

use super::exchange::{Prepared, location, received, takes_delta};
use super::{Backoff, COMMIT_PATIENCE, Client, ClientError, Response};
use crate::oci::{Algorithm, Digest, MediaType, Reference, RegistryHost, RepositoryName};

/// The largest manifest or config that is read, as everywhere in the field.
const DOCUMENT_LIMIT: usize = 4 << 20;

/// The most of a blob that is read at once.
const PART_LIMIT: usize = 16 << 20;

/// All that a manifest may be.
const MANIFESTS: [&str; 4] =
    [MediaType::IMAGE, MediaType::INDEX, MediaType::DOCKER_IMAGE, MediaType::DOCKER_LIST];

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// One repository on one registry.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) client: Client,
    pub(super) registry: RegistryHost,
    pub(super) name: RepositoryName,
}

/// Where an upload stands.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// Where it goes on.
    pub(super) url: Url,
    /// Bytes that the registry has.
    pub(super) offset: u64,
    /// Whether the registry takes deltas.
    pub(super) takes_delta: bool,
}

/// A manifest as a registry gave it.
#[derive(Debug, Clone)]
pub struct RemoteManifest {
    /// Its bytes, whose digest has been checked.
    pub bytes: Bytes,
    /// Its name.
    pub digest: Digest,
    /// What the registry says that it is.
    pub media_type: MediaType,
}

impl Repository {
    pub(super) fn new(client: Client, registry: RegistryHost, name: RepositoryName) -> Self {
        Self { client, registry, name }
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &RegistryHost {
        &self.registry
    }

    /// The repository's name.
    #[must_use]
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// A manifest, checked against its digest (end-3).
    pub async fn manifest(&self, reference: &Reference) -> Result<RemoteManifest, ClientError> {
        let headers = MANIFESTS.map(|text| (ACCEPT, HeaderValue::from_static(text))).to_vec();
        let request =
            Prepared { headers, ..self.bare(Method::GET, self.url(&format!("manifests/{reference}"))?) };
        let response = self.ask(&request, "pull").await?;
        let response = self.expect(response, &[StatusCode::OK], || self.called(reference)).await?;
        let declared = response.header(&CONTENT_DIGEST).and_then(|text| text.parse::<Digest>().ok());
        let media_type = response.header(&CONTENT_TYPE).and_then(|text| text.parse::<MediaType>().ok());
        let wrong = response.protocol("a manifest without Content-Type");
        let bytes = response.body(DOCUMENT_LIMIT).await?;
        let expected = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => declared,
        };
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(ClientError::WrongDigest { what: self.called(reference), expected, actual: digest });
        }
        Ok(RemoteManifest { bytes, digest, media_type: media_type.ok_or(wrong)? })
    }

    /// Puts a manifest under a name (end-7).
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: Bytes,
    ) -> Result<(), ClientError> {
        let content_type = HeaderValue::from_str(media_type.as_str())
            .map_err(|_| ClientError::Setup(format!("{media_type} is no Content-Type")))?;
        let headers = vec![(CONTENT_TYPE, content_type)];
        let request = Prepared {
            headers,
            body: bytes,
            ..self.bare(Method::PUT, self.url(&format!("manifests/{reference}"))?)
        };
        let response = self.ask(&request, "pull,push").await?;
        self.expect(response, &[StatusCode::CREATED, StatusCode::OK], || self.called(reference)).await?;
        Ok(())
    }

    /// Deletes a tag or a manifest (end-9).
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<(), ClientError> {
        let request = self.bare(Method::DELETE, self.url(&format!("manifests/{reference}"))?);
        let response = self.ask(&request, "delete").await?;
        self.expect(response, &[StatusCode::ACCEPTED, StatusCode::OK], || self.called(reference)).await?;
        Ok(())
    }

    /// Whether a blob is there (end-2).
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, ClientError> {
        let request = self.bare(Method::HEAD, self.url(&format!("blobs/{digest}"))?);
        let response = self.ask(&request, "pull").await?;
        match self.expect(response, &[StatusCode::OK], || digest.to_string()).await {
            Ok(_) => Ok(true),
            Err(ClientError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The blob from `start` on, up to before `end` (end-2). The answer may be the whole blob, status 200,
    /// from a registry that knows no ranges.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
    ) -> Result<Response, ClientError> {
        let mut request = self.bare(Method::GET, self.url(&format!("blobs/{digest}"))?);
        if start > 0 || end.is_some() {
            let last = end.map(|end| end.saturating_sub(1).to_string()).unwrap_or_default();
            let range = HeaderValue::from_str(&format!("bytes={start}-{last}"));
            request.headers.extend(range.map(|range| (RANGE, range)));
        }
        let response = self.ask_once(&request, "pull").await?;
        self.expect(response, &[StatusCode::OK, StatusCode::PARTIAL_CONTENT], || digest.to_string()).await
    }

    /// Some bytes of a blob, **not verified**; `None` from a registry that knows no ranges.
    pub async fn blob_part(&self, digest: &Digest, range: Range<u64>) -> Result<Option<Bytes>, ClientError> {
        let mut backoff = Backoff::new(self.client.retries());
        loop {
            let read = async {
                let response = self.blob(digest, range.start, Some(range.end)).await?;
                if response.status() != StatusCode::PARTIAL_CONTENT {
                    return Ok(None);
                }
                let body = response.body(PART_LIMIT).await?;
                Ok(Some(body).filter(|body| body.len() as u64 == range.end - range.start))
            };
            match read.await {
                Ok(part) => return Ok(part),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// A small blob, such as a config, checked against its digest.
    pub async fn document(&self, digest: &Digest) -> Result<Bytes, ClientError> {
        let mut backoff = Backoff::new(self.client.retries());
        let bytes = loop {
            let read = async { self.blob(digest, 0, None).await?.body(DOCUMENT_LIMIT).await };
            match read.await {
                Ok(bytes) => break bytes,
                Err(error) => backoff.after(error).await?,
            }
        };
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            let what = format!("a blob of {}/{}", self.registry, self.name);
            return Err(ClientError::WrongDigest { what, expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    /// Pushes a small blob, unless it is there (end-4b).
    pub async fn push_document(&self, bytes: Bytes) -> Result<Digest, ClientError> {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        if self.has_blob(&digest).await? {
            return Ok(digest);
        }
        let mut backoff = Backoff::new(self.client.retries());
        loop {
            match self.push_document_once(&digest, bytes.clone()).await {
                Ok(()) => return Ok(digest),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    async fn push_document_once(&self, digest: &Digest, bytes: Bytes) -> Result<(), ClientError> {
        let mut url = self.begin_upload().await?.url;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        let response = self
            .ask_once(&Prepared { headers, body: bytes, ..self.bare(Method::PUT, url) }, "pull,push")
            .await?;
        self.expect(response, &[StatusCode::CREATED], || digest.to_string()).await?;
        Ok(())
    }

    /// Makes a blob of another repository a blob of this one (end-11); `false` when the registry does not.
    pub async fn mount(&self, digest: &Digest, from: &RepositoryName) -> Result<bool, ClientError> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from.as_str());
        let scope = format!("pull,push repository:{from}:pull");
        let response = self.ask_once(&self.bare(Method::POST, url), &scope).await?;
        let response = self
            .expect(response, &[StatusCode::CREATED, StatusCode::ACCEPTED], || digest.to_string())
            .await?;
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        // It began an upload instead.
        let session = location(&response)?;
        self.cancel_upload(&session).await?;
        Ok(false)
    }

    /// Takes a blob out of the repository (end-10).
    pub async fn delete_blob(&self, digest: &Digest) -> Result<(), ClientError> {
        let request = self.bare(Method::DELETE, self.url(&format!("blobs/{digest}"))?);
        let response = self.ask(&request, "delete").await?;
        self.expect(response, &[StatusCode::ACCEPTED, StatusCode::OK], || digest.to_string()).await?;
        Ok(())
    }

    /// Begins an upload (end-4a): where to send it.
    pub(super) async fn begin_upload(&self) -> Result<Session, ClientError> {
        let mut backoff = Backoff::new(self.client.retries());
        loop {
            let begun = async {
                let request = self.bare(Method::POST, self.url("blobs/uploads/")?);
                let response = self.ask_once(&request, "pull,push").await?;
                let response = self
                    .expect(response, &[StatusCode::ACCEPTED], || format!("{}/{}", self.registry, self.name))
                    .await?;
                Ok(Session { url: location(&response)?, offset: 0, takes_delta: takes_delta(&response) })
            };
            match begun.await {
                Ok(session) => return Ok(session),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// How far an upload has come (end-13), and where it goes on.
    pub(super) async fn upload_status(&self, session: &Url) -> Result<Session, ClientError> {
        let response = self.ask(&self.bare(Method::GET, session.clone()), "pull,push").await?;
        let response = self
            .expect(response, &[StatusCode::NO_CONTENT, StatusCode::OK], || "the upload".to_owned())
            .await?;
        let offset = match response.header(&RANGE) {
            // One byte and none look alike in this header; a byte too many is sent again, or the registry objects.
            None | Some("0-0" | "0--1") => 0,
            Some(text) => received(&response)
                .ok_or_else(|| response.protocol(format!("Range {text:?} is no 0-LAST")))?,
        };
        let url =
            if response.headers().contains_key(LOCATION) { location(&response)? } else { session.clone() };
        Ok(Session { url, offset, takes_delta: takes_delta(&response) })
    }

    /// Ends an upload without a blob. A registry that cannot is left to time it out.
    pub(super) async fn cancel_upload(&self, session: &Url) -> Result<(), ClientError> {
        let response = self.ask(&self.bare(Method::DELETE, session.clone()), "pull,push").await?;
        let status = response.status();
        if status.is_success() || matches!(status.as_u16(), 404 | 405 | 501) {
            return Ok(());
        }
        Err(response.into_error().await)
    }

    /// The last request of an upload (end-6).
    pub(super) async fn commit_upload(&self, url: Url) -> Result<Response, ClientError> {
        let prepared = Prepared { patience: COMMIT_PATIENCE, ..self.bare(Method::PUT, url) };
        self.ask_once(&prepared, "pull,push").await
    }

    /// A list, as one page of it (end-8a and the catalog).
    pub(super) async fn page(&self, url: Url, scope: &str) -> Result<Response, ClientError> {
        let response = self.ask(&self.bare(Method::GET, url), scope).await?;
        self.expect(response, &[StatusCode::OK], || format!("{}/{}", self.registry, self.name)).await
    }

    /// A URL below the repository.
    pub(super) fn url(&self, path: &str) -> Result<Url, ClientError> {
        self.registry_url(&format!("{}/{path}", self.name))
    }

    /// A URL of the registry.
    pub(super) fn registry_url(&self, path: &str) -> Result<Url, ClientError> {
        let text =
            format!("{}://{}/v2/{path}", self.client.scheme(&self.registry), self.registry.authority());
        text.parse().map_err(|_| ClientError::Setup(format!("{text} is no URL")))
    }

    pub(super) fn called(&self, reference: &Reference) -> String {
        let separator = if matches!(reference, Reference::Tag(_)) { ':' } else { '@' };
        format!("{}/{}{separator}{reference}", self.registry, self.name)
    }
}
