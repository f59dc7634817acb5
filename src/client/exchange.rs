//! One request to a registry and its answer: who we are, another try, and what a status means.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Request, StatusCode};
use url::Url;

use super::{Backoff, ClientError, Repository, Response};
use crate::chunk::DELTA;

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// A request before it is authenticated; it can be sent again.
pub(super) struct Prepared {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    /// For how long the registry may think about it.
    pub(super) patience: Duration,
}

impl Repository {
    pub(super) fn bare(&self, method: Method, url: Url) -> Prepared {
        let patience = self.client.shared.transport.patience();
        Prepared { method, url, headers: Vec::new(), body: Bytes::new(), patience }
    }

    /// Asks until there is an answer other than a passing trouble.
    pub(super) async fn ask(&self, request: &Prepared, actions: &str) -> Result<Response, ClientError> {
        let mut backoff = Backoff::new(self.client.retries());
        loop {
            let error = match self.ask_once(request, actions).await {
                Ok(response) if is_passing(response.status()) => response.into_error().await,
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            backoff.after(error).await?;
        }
    }

    /// Asks, and says who we are if that is wanted.
    pub(super) async fn ask_once(&self, prepared: &Prepared, actions: &str) -> Result<Response, ClientError> {
        let (response, had_grant) = self.send_prepared(prepared, actions).await?;
        // What another server asks for, behind a redirect, is no business of the registry's credentials.
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(response.url()) {
            return Ok(response);
        }
        self.introduce(&response, actions, had_grant).await?;
        Ok(self.send_prepared(prepared, actions).await?.0)
    }

    /// Answers the registry's question who we are.
    async fn introduce(&self, refusal: &Response, actions: &str, had_grant: bool) -> Result<(), ClientError> {
        if !self.is_own(refusal.url()) {
            return Ok(());
        }
        let shared = &self.client.shared;
        let scope = self.scope(actions);
        shared
            .authenticator
            .answer(&shared.transport, &self.registry, &self.name, &scope, refusal, had_grant)
            .await
    }

    async fn send_prepared(
        &self,
        prepared: &Prepared,
        actions: &str,
    ) -> Result<(Response, bool), ClientError> {
        let mut request = Request::new(prepared.method.clone(), prepared.url.clone());
        for (name, value) in &prepared.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        let had_grant = self.authorize(&mut request, actions);
        let transport = &self.client.shared.transport;
        if matches!(prepared.method, Method::GET | Method::HEAD) {
            let headers = std::mem::take(request.headers_mut());
            let response = transport.get(prepared.method.clone(), &prepared.url, &headers).await?;
            return Ok((response, had_grant));
        }
        if prepared.body.is_empty() {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        } else {
            *request.body_mut() = Some(prepared.body.clone().into());
        }
        Ok((transport.send_within(request, prepared.patience).await?, had_grant))
    }

    /// Says who we are, if that is known; whether it was said.
    fn authorize(&self, request: &mut Request, actions: &str) -> bool {
        let known = self.client.shared.authenticator.known(&self.registry, &self.scope(actions));
        // Only the registry itself is told; an upload may lead elsewhere.
        let Some(header) = known.filter(|_| self.is_own(request.url())) else { return false };
        request.headers_mut().insert(AUTHORIZATION, header);
        true
    }

    /// Whether a URL is the registry's own: scheme, host and port.
    fn is_own(&self, url: &Url) -> bool {
        self.registry_url("").is_ok_and(|own| own.origin() == url.origin())
    }

    fn scope(&self, actions: &str) -> String {
        if actions.starts_with("registry:") {
            actions.to_owned()
        } else {
            format!("repository:{}:{actions}", self.name)
        }
    }

    /// The answer, if it is one of those that `wanted` names.
    pub(super) async fn expect(
        &self,
        response: Response,
        wanted: &[StatusCode],
        what: impl Fn() -> String,
    ) -> Result<Response, ClientError> {
        if wanted.contains(&response.status()) {
            return Ok(response);
        }
        match response.status() {
            StatusCode::NOT_FOUND => Err(ClientError::NotFound { what: what() }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let error = response.into_error().await;
                let ClientError::Status { message, .. } = &error else { return Err(error) };
                let said = if message.is_empty() { "access is denied" } else { message };
                Err(ClientError::Unauthorized {
                    registry: self.registry.to_string(),
                    reason: said.to_owned(),
                })
            }
            _ => Err(response.into_error().await),
        }
    }

    /// Sends a request whose body is the caller's and cannot be sent twice. When the registry does not know us any
    /// more we introduce ourselves again; the answer is still its 401.
    ///
    /// `sources` are repositories that the body copies from.
    pub(super) async fn send_upload(
        &self,
        mut request: Request,
        sources: &[&str],
    ) -> Result<Response, ClientError> {
        let sources = sources.iter().filter(|source| **source != self.name.as_str());
        let actions: String = std::iter::once("pull,push".to_owned())
            .chain(sources.map(|source| format!(" repository:{source}:pull")))
            .collect();
        let had_grant = self.authorize(&mut request, &actions);
        let response = self.client.shared.transport.send_patiently(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.introduce(&response, &actions, had_grant).await?;
        }
        Ok(response)
    }
}

/// How many bytes of an upload the registry says that it has: `Range: 0-LAST`.
pub(super) fn received(response: &Response) -> Option<u64> {
    let last: u64 = response.header(&RANGE)?.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    last.checked_add(1)
}

/// The `Location` of an answer, which may be relative.
pub(super) fn location(response: &Response) -> Result<Url, ClientError> {
    let text = response.header(&LOCATION).ok_or_else(|| response.protocol("an upload without Location"))?;
    let wrong = || response.protocol(format!("Location {text:?} is no URL"));
    let mut target = response.url().join(text).map_err(|_| wrong())?;
    if response.url().scheme() == "https" && target.scheme() == "http" {
        // A registry behind a proxy that ends TLS often says so of itself; of another host it is none we may trust.
        if target.host() != response.url().host() {
            return Err(response.protocol(format!("Location {text:?} leads from HTTPS to HTTP")));
        }
        target.set_scheme("https").map_err(|()| wrong())?;
    }
    Ok(target)
}

/// Whether a registry takes deltas, by its answer to a request about an upload (RFC 5789, 3.1).
pub(super) fn takes_delta(response: &Response) -> bool {
    let accepted = response.header(&ACCEPT_PATCH).unwrap_or_default();
    accepted.split(',').any(|media_type| media_type.trim() == DELTA)
}

/// Whether a status is one that may be another a little later.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}
