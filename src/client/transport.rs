//! [`Transport`]: one HTTP request and its answer, with redirects, the egress rule and idle timeouts.
//!
//! There is no limit on how long an answer may take as a whole, only on how long it may be silent.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, CONTENT_RANGE, HeaderMap, HeaderName, IF_MATCH, IF_RANGE, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Certificate, Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use url::Url;

use super::egress::Resolver;
use super::{ClientError, Egress};
use crate::oci::RegistryHost;

/// How servers are reached.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// Certificate authorities besides the system's, as PEM bundles.
    pub authorities: Vec<Vec<u8>>,
    /// Accept any certificate.
    pub insecure: bool,
    /// Which addresses may be spoken to.
    pub egress: Egress,
    /// For how long a server may be silent.
    pub patience: Duration,
    /// A server that is spoken to in a way of its own, over TLS.
    pub own: Option<OwnServer>,
    /// Headers of each request besides its own, such as the trace that it is in.
    pub headers: HeaderMap,
}

/// A server with which it is agreed on TLS in a way of its own, whatever authorities say.
#[derive(Debug, Clone)]
pub struct OwnServer {
    /// Where it is.
    pub host: RegistryHost,
    /// How TLS is agreed on.
    pub tls: rustls::ClientConfig,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            authorities: Vec::new(),
            insecure: false,
            egress: Egress::default(),
            patience: Duration::from_mins(1),
            own: None,
            headers: HeaderMap::new(),
        }
    }
}

/// How many redirects are followed; what browsers and curl do is 20 to 50, a mirror needs one or two.
const REDIRECTS: usize = 10;

/// How much of an error's body is read.
const ERROR_BODY: usize = 8 << 10;

/// Sends requests.
#[derive(Debug, Clone)]
pub struct Transport {
    /// Through the proxy of the environment, where there is one.
    client: reqwest::Client,
    /// To this machine itself no proxy leads.
    direct: reqwest::Client,
    /// For the one server that is spoken to in a way of its own.
    own: Option<(RegistryHost, reqwest::Client)>,
    egress: Egress,
    patience: Duration,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Response {
    inner: reqwest::Response,
    patience: Duration,
}

/// Whether these are certificate authorities that a [`Transport`] can be made with.
pub fn check_authorities(pem: &[u8]) -> Result<(), ClientError> {
    certificates(pem).map(drop)
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, ClientError> {
    let found = Certificate::from_pem_bundle(pem)
        .map_err(|error| ClientError::Setup(format!("cannot read certificate authorities: {error}")))?;
    if found.is_empty() {
        let message = "a file of certificate authorities holds no PEM certificate";
        return Err(ClientError::Setup(message.to_owned()));
    }
    Ok(found)
}

impl Transport {
    /// A transport. Fails when an authority cannot be read.
    pub fn new(options: &TransportOptions) -> Result<Self, ClientError> {
        // A provider that is installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut authorities = Vec::new();
        for pem in &options.authorities {
            authorities.extend(certificates(pem)?);
        }
        let build = |proxied: bool, own: Option<&OwnServer>| {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("dvcr/", env!("CARGO_PKG_VERSION")))
                .default_headers(options.headers.clone())
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(options.patience.min(Duration::from_secs(30)))
                .http2_adaptive_window(true)
                .tcp_nodelay(true)
                // The library's own limit would end a connection whose other end may be silent for longer.
                .tcp_user_timeout(options.patience)
                .dns_resolver(Resolver {
                    egress: options.egress.clone(),
                    proxies: if proxied { proxies() } else { Vec::new() },
                })
                .tls_danger_accept_invalid_certs(options.insecure);
            if let Some(own) = own {
                builder = builder.tls_backend_preconfigured(own.tls.clone());
            } else if !authorities.is_empty() {
                builder = builder.tls_certs_merge(authorities.clone());
            }
            if !proxied || is_proxy_off() {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|error| ClientError::Setup(format!("cannot set up HTTP: {error}")))
        };
        let own = match &options.own {
            Some(own) => Some((own.host.clone(), build(false, Some(own))?)),
            None => None,
        };
        Ok(Self {
            client: build(true, None)?,
            direct: build(false, None)?,
            own,
            egress: options.egress.clone(),
            patience: options.patience,
        })
    }

    /// For how long a server may be silent.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Asks with GET or HEAD and follows redirects. What the headers hold stays with the origin that it is for.
    /// Any status is an answer.
    pub async fn get(&self, method: Method, url: &Url, headers: &HeaderMap) -> Result<Response, ClientError> {
        let mut next = url.clone();
        let mut headers = headers.clone();
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(method.clone(), next.clone());
            *request.headers_mut() = headers.clone();
            let response = self.send(request).await?;
            let Some(location) = response.redirect()? else { return Ok(response) };
            if location.origin() != next.origin() {
                headers = public(&headers);
            }
            tracing::debug!(from = %redacted(&next), to = %redacted(&location), "redirected");
            next = location;
        }
        Err(ClientError::Redirects { url: redacted(url), count: REDIRECTS })
    }

    /// Sends one request without headers and body, and follows nothing. Any status is an answer.
    pub async fn request(&self, method: Method, url: Url) -> Result<Response, ClientError> {
        self.send(Request::new(method, url)).await
    }

    /// Sends one request that has no body or a small one, and follows nothing. Any status is an answer.
    pub async fn send(&self, request: Request) -> Result<Response, ClientError> {
        self.send_within(request, self.patience).await
    }

    /// Sends one request to a server that may take longer to answer it.
    pub(super) async fn send_within(
        &self,
        request: Request,
        patience: Duration,
    ) -> Result<Response, ClientError> {
        let url = request.url().clone();
        let sent = timeout(patience, self.send_patiently(request)).await;
        sent.map_err(|_| ClientError::Silent { url: redacted(&url), patience })?
    }

    /// Sends one request and waits for its answer as long as it takes; the caller watches the time.
    pub async fn send_patiently(&self, request: Request) -> Result<Response, ClientError> {
        let url = request.url().clone();
        self.egress.check(&url).await?;
        let client = match &self.own {
            Some((host, own)) if is_at(&url, host) => own,
            _ if is_loopback(&url) => &self.direct,
            _ => &self.client,
        };
        let inner = client.execute(request).await.map_err(|error| ClientError::of(&url, error))?;
        Ok(Response { inner, patience: self.patience })
    }
}

/// Of the headers for one server, those that any server may see.
fn public(headers: &HeaderMap) -> HeaderMap {
    let known = [ACCEPT, IF_MATCH, IF_RANGE, RANGE];
    let seen = headers.iter().filter(|(name, _)| known.contains(name));
    seen.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Where something is, without what may be secret.
pub(crate) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // These fail only for URLs that cannot have such parts.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

/// The names of the proxies of the environment.
fn proxies() -> Vec<String> {
    let variables = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let all = variables.into_iter().flat_map(|name| [name.to_owned(), name.to_lowercase()]);
    let urls = all.filter_map(|name| std::env::var(name).ok()).filter_map(|text| {
        // The library takes them without a scheme too.
        let text = if text.contains("://") { text } else { format!("http://{text}") };
        Url::parse(&text).ok()
    });
    urls.filter_map(|url| Some(url.domain()?.to_owned())).collect()
}

/// Whether the environment excepts everything from the proxy, which the library does not know.
fn is_proxy_off() -> bool {
    ["NO_PROXY", "no_proxy"].iter().any(|name| std::env::var(name).is_ok_and(|value| value.trim() == "*"))
}

/// Whether a URL leads to a server by TLS.
fn is_at(url: &Url, host: &RegistryHost) -> bool {
    let authority = url.host_str().zip(url.port_or_known_default());
    url.scheme() == "https" && authority.is_some_and(|(name, port)| host.as_str() == format!("{name}:{port}"))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl Response {
    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// Where the answer came from, behind all redirects.
    #[must_use]
    pub fn url(&self) -> &Url {
        self.inner.url()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// How long the body is, if the server says it.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.header(&reqwest::header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The first byte, and the length of the whole if it is told, of `Content-Range: bytes 5-9/10`.
    #[must_use]
    pub fn content_range(&self) -> Option<(u64, Option<u64>)> {
        let (range, length) = self.header(&CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        let start = range.split('-').next()?.trim().parse().ok()?;
        Some((start, length.trim().parse().ok()))
    }

    /// The next piece of the body; `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        match timeout(self.patience, self.inner.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(ClientError::of(self.inner.url(), error)),
            Err(_) => Err(ClientError::Silent { url: redacted(self.inner.url()), patience: self.patience }),
        }
    }

    /// The whole body, which may not be longer than `limit` bytes.
    pub async fn body(mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > limit {
                return Err(self.protocol(format!("the answer is longer than {limit} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.into())
    }

    /// What the whole body says in JSON, which may not be longer than `limit` bytes.
    pub(super) async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, ClientError> {
        let wrong = self.protocol("an answer that does not parse");
        serde_json::from_slice(&self.body(limit).await?).map_err(|_| wrong)
    }

    /// The error that an answer with this status is.
    pub async fn into_error(mut self) -> ClientError {
        let mut body = Vec::new();
        while body.len() < ERROR_BODY {
            match self.piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                _ => break,
            }
        }
        let retry_after = self.header(&RETRY_AFTER).and_then(|text| {
            text.parse().map(Duration::from_secs).ok().or_else(|| {
                let at = httpdate::parse_http_date(text).ok()?;
                at.duration_since(std::time::SystemTime::now()).ok()
            })
        });
        let url = redacted(self.url());
        ClientError::Status { url, status: self.status(), message: message(&body), retry_after }
    }

    /// The answer makes no sense.
    #[must_use]
    pub fn protocol(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Protocol { url: redacted(self.url()), reason: reason.into() }
    }

    fn redirect(&self) -> Result<Option<Url>, ClientError> {
        // 304 and the like are answers.
        if !matches!(self.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = self.header(&LOCATION).ok_or_else(|| self.protocol("a redirect without Location"))?;
        let target = self.url().join(location).map_err(|_| self.protocol("a redirect to no URL"))?;
        if !matches!(target.scheme(), "http" | "https") {
            return Err(self.protocol(format!("a redirect to {}:", target.scheme())));
        }
        Ok(Some(target))
    }
}

/// What an error's body says: the distribution specification's errors, or a line of text.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(serde::Deserialize)]
    struct Error {
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(Errors { errors }) = serde_json::from_slice(body) {
        let texts = errors.into_iter().map(|error| {
            if error.message.is_empty() { error.code } else { format!("{}: {}", error.code, error.message) }
        });
        return texts.collect::<Vec<_>>().join("; ");
    }
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') {
        // A page for people.
        return String::new();
    }
    text.lines().next().unwrap_or_default().trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let url = "https://user:pass@host:8443/a/b.img?token=1#part".parse().unwrap();
        assert_eq!(redacted(&url), "https://host:8443/a/b.img");
    }

    #[test]
    fn a_server_of_its_own_is_known_by_scheme_host_and_port() {
        let host = "127.0.0.1:5000".parse().unwrap();
        assert!(is_at(&"https://127.0.0.1:5000/v2/".parse().unwrap(), &host));
        for other in ["http://127.0.0.1:5000/", "https://127.0.0.1/", "https://127.0.0.2:5000/"] {
            assert!(!is_at(&other.parse().unwrap(), &host), "{other}");
        }
        let host = "[::1]:443".parse().unwrap();
        assert!(is_at(&"https://[::1]/v2/".parse().unwrap(), &host));
    }

    #[test]
    fn an_error_says_what_the_server_said() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#;
        assert_eq!(message(body), "DENIED: no; X");
        assert_eq!(message(b"disk full\nmore"), "disk full");
        assert_eq!(message(b"<html>"), "");
    }

    #[test]
    fn another_server_sees_no_headers_that_are_not_for_it() {
        let mut headers = HeaderMap::new();
        headers.insert("range", "bytes=5-".parse().unwrap());
        headers.insert("x-token", "secret".parse().unwrap());
        assert_eq!(public(&headers).keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["range"]);
    }
}
