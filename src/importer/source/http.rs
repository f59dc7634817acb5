//! [`HttpSource`]: a file on a web server, over as many connections as it takes.
//!
//! A broken connection goes on with `Range` at the byte where it stopped, and `If-Range` makes sure that it is
//! still the same file (RFC 9110, 13.1.5). A server without ranges is read again from the beginning, and what
//! was seen is passed over, if its validators are the same; one without validators is a file that may have changed.
//! A server that says no length is
//! believed that the end of its answer is the end of the file; the checks of the disk find out most lies.

use std::ops::Range;

use bytes::{Buf as _, Bytes};
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::{Opened, QUEUE, read};
use crate::client::{Backoff, ClientError, Response, Retries, Transport, basic, redacted};
use crate::importer::SourceError;

/// The most that is read out of order at once.
const READ_AT_LIMIT: usize = 16 << 20;

/// A file on a web server.
#[derive(Debug, Clone)]
pub struct HttpSource {
    transport: Transport,
    url: Url,
    headers: HeaderMap,
    retries: Retries,
    /// What the file was when it was opened first.
    version: Option<Version>,
}

/// Tells one state of a file from another, as far as its server can.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    etag: Option<String>,
    modified: Option<String>,
    length: Option<u64>,
}

/// A download that goes on behind a broken connection.
struct Download {
    source: HttpSource,
    version: Version,
    position: u64,
    response: Option<Response>,
    /// Bytes of the answer that were seen already.
    skip: u64,
    backoff: Backoff,
}

impl HttpSource {
    /// The file at `url`, asked for with `headers`. User info in the URL is sent as basic authentication.
    #[must_use]
    pub fn new(transport: Transport, mut url: Url, mut headers: HeaderMap, retries: Retries) -> Self {
        if !url.username().is_empty() || url.password().is_some() {
            let decode =
                |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let (user, password) = (decode(url.username()), decode(url.password().unwrap_or_default()));
            // These fail only for URLs that cannot have such parts.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            headers.extend([(AUTHORIZATION, basic(&user, &password))]);
        }
        Self { transport, url, headers, retries, version: None }
    }

    /// The file at `url`, asked for without further headers.
    #[must_use]
    pub fn at(transport: Transport, url: Url, retries: Retries) -> Self {
        Self::new(transport, url, HeaderMap::new(), retries)
    }

    /// The same file, asked for with basic authentication.
    #[must_use]
    pub fn with_user(mut self, user: &str, password: &str) -> Self {
        self.headers.extend([(AUTHORIZATION, basic(user, password))]);
        self
    }

    /// What tells this state of the file from others: its entity tag, its date and its length; `None` when the server gives neither
    /// of the first two. The file is not fetched.
    pub async fn version(&self) -> Result<Option<String>, SourceError> {
        let ask = || async {
            let head = self.transport.get(Method::HEAD, &self.url, &self.headers).await?;
            if head.status() == StatusCode::OK {
                return Ok(Version::of(&head));
            }
            // Some have no HEAD, and some that sign addresses do so for GET alone. Of its answer the headers are read.
            Ok(Version::of(&self.ask(0, None).await?))
        };
        let version = self.patiently(ask).await?;
        let is_marked = version.etag.is_some() || version.modified.is_some();
        Ok(is_marked.then(|| format!("{version:?}")))
    }

    /// The whole of a file that is text, and of at most `limit` bytes.
    pub async fn text(&self, limit: usize) -> Result<String, SourceError> {
        let body = self.patiently(|| async { self.ask(0, None).await?.body(limit).await }).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Asks again what did not work and may work the next time.
    async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, SourceError> {
        let mut backoff = Backoff::new(self.retries);
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The last part of the path.
    pub(super) fn file_name(&self) -> Option<String> {
        let last = self.url.path_segments()?.next_back()?;
        let name = percent_encoding::percent_decode_str(last).decode_utf8().ok()?.into_owned();
        (!name.is_empty()).then_some(name)
    }

    pub(super) async fn open(&mut self) -> Result<Opened, SourceError> {
        let response = self.patiently(|| self.ask(0, None)).await?;
        let version = Version::of(&response);
        if self.version.as_ref().is_some_and(|known| !known.may_be(&version)) {
            return Err(self.changed());
        }
        self.version = Some(version.clone());
        let opened_version = version.clone();
        let (sender, pieces) = mpsc::channel(QUEUE);
        let mut download = Download {
            source: self.clone(),
            version,
            position: 0,
            response: Some(response),
            skip: 0,
            backoff: Backoff::new(self.retries),
        };
        let reading = read(async move {
            while let Some(piece) = download.next().await.transpose() {
                let failed = piece.is_err();
                if sender.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Opened {
            length: opened_version.length,
            modified: opened_version
                .modified
                .as_deref()
                .and_then(|text| httpdate::parse_http_date(text).ok()),
            identity: format!("{} {opened_version:?}", self.url),
            pieces,
            reading: Some(reading),
        })
    }

    /// Takes whatever the server has next for the right file.
    pub(super) fn renew(&mut self) {
        self.version = None;
    }

    pub(super) async fn read_at(&self, range: Range<u64>) -> Result<Option<Bytes>, SourceError> {
        let mut backoff = Backoff::new(self.retries);
        loop {
            let read = async {
                let response = self.ask(range.start, Some(range.end)).await?;
                if response.status() != StatusCode::PARTIAL_CONTENT {
                    return Ok(None);
                }
                let body = response.body(READ_AT_LIMIT).await?;
                Ok(Some(body).filter(|body| body.len() as u64 == range.end - range.start))
            };
            match read.await {
                // Without ranges there is nothing out of order, whatever the server says about it.
                Err(ClientError::Status { status, .. }) if status.is_client_error() => return Ok(None),
                Ok(found) => return Ok(found),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    fn changed(&self) -> SourceError {
        SourceError::Changed { source_name: redacted(&self.url) }
    }

    /// Asks for the file from `start` on.
    async fn ask(&self, start: u64, end: Option<u64>) -> Result<Response, ClientError> {
        let mut headers = self.headers.clone();
        if start > 0 || end.is_some() {
            let last = end.map(|end| (end - 1).to_string()).unwrap_or_default();
            headers
                .extend(HeaderValue::from_str(&format!("bytes={start}-{last}")).map(|value| (RANGE, value)));
            let validator = self.version.as_ref().and_then(Version::validator);
            headers.extend(validator.map(|value| (IF_RANGE, value)));
        }
        let response = self.transport.get(Method::GET, &self.url, &headers).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if start > 0 || end.is_some() => Ok(response),
            _ => Err(response.into_error().await),
        }
    }
}

impl Version {
    fn of(response: &Response) -> Self {
        let text = |name| response.header(&name).map(str::to_owned);
        Self { etag: text(ETAG), modified: text(LAST_MODIFIED), length: response.length() }
    }

    /// Whether an answer with the other headers can hold the same bytes. What one does not say is not held against
    /// the other: mirrors differ in that.
    fn may_be(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.zip(other).is_none_or(|(one, other)| one == other)
        }
        agree(self.etag.as_ref(), other.etag.as_ref())
            && agree(self.modified.as_ref(), other.modified.as_ref())
            && agree(self.length.as_ref(), other.length.as_ref())
    }

    /// Whether an answer with the other headers certainly holds the same bytes, so that it may go on where this one
    /// ended. A server that gives neither a strong entity tag nor a date cannot say that.
    fn is(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.is_some() && one == other
        }
        let is_strong = self.etag.as_deref().is_some_and(|etag| !etag.starts_with("W/"));
        let has_mark = (is_strong && same(self.etag.as_ref(), other.etag.as_ref()))
            || same(self.modified.as_ref(), other.modified.as_ref());
        has_mark && self.may_be(other)
    }

    /// What `If-Range` takes: a strong entity tag, or the date.
    fn validator(&self) -> Option<HeaderValue> {
        let strong = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        HeaderValue::from_str(strong.or(self.modified.as_deref())?).ok()
    }
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            if self.version.length == Some(self.position) {
                return Ok(None);
            }
            let error = match self.piece().await {
                Ok(Some(piece)) if piece.is_empty() => continue,
                Ok(Some(piece)) => {
                    self.backoff.progressed();
                    self.position += piece.len() as u64;
                    return Ok(Some(piece));
                }
                // It ended, and nobody said how long it is.
                Ok(None) => return Ok(None),
                Err(SourceError::Client(error)) => error,
                Err(error) => return Err(error),
            };
            self.response = None;
            self.backoff.after(error).await?;
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, SourceError> {
        let response = if let Some(response) = &mut self.response {
            response
        } else {
            let response = self.reopen().await?;
            self.response.insert(response)
        };
        match response.piece().await? {
            Some(mut piece) => {
                let seen = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
                self.skip -= seen as u64;
                piece.advance(seen);
                Ok(Some(piece))
            }
            None => match self.version.length {
                Some(expected) => {
                    let url = self.source.url.host_str().unwrap_or_default().to_owned();
                    Err(ClientError::Short { url, got: self.position, expected }.into())
                }
                None => Ok(None),
            },
        }
    }

    /// Asks for what is still to come.
    async fn reopen(&mut self) -> Result<Response, SourceError> {
        let response = match self.source.ask(self.position, None).await {
            Ok(response) => response,
            // It is shorter now.
            Err(ClientError::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) => {
                return Err(self.source.changed());
            }
            Err(error) => return Err(error.into()),
        };
        let mut found = Version::of(&response);
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let (start, length) = response
                .content_range()
                .ok_or_else(|| response.protocol("a range that says not which it is"))?;
            if start != self.position {
                return Err(response.protocol("a range that was not asked for").into());
            }
            found.length = length;
            self.skip = 0;
        } else {
            // Without ranges or, as If-Range wants it, with another file.
            self.skip = self.position;
        }
        if self.version.is(&found) { Ok(response) } else { Err(self.source.changed()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(etag: Option<&str>, modified: Option<&str>, length: Option<u64>) -> Version {
        Version { etag: etag.map(str::to_owned), modified: modified.map(str::to_owned), length }
    }

    #[test]
    fn a_file_is_another_when_anything_that_both_answers_say_differs() {
        let known = version(Some("\"a\""), Some("yesterday"), Some(5));
        assert!(known.may_be(&known.clone()));
        assert!(known.may_be(&version(None, None, None)), "a mirror that says nothing");
        assert!(!known.may_be(&version(Some("\"b\""), Some("yesterday"), Some(5))));
        assert!(!known.may_be(&version(None, Some("today"), None)));
        assert!(!known.may_be(&version(None, None, Some(6))));
    }

    #[test]
    fn a_download_goes_on_only_in_what_is_certainly_the_same_file() {
        let known = version(Some("\"a\""), Some("yesterday"), Some(5));
        assert!(known.is(&known.clone()));
        assert!(known.is(&version(None, Some("yesterday"), None)));
        assert!(!known.is(&version(None, None, Some(5))), "nothing says so");
        assert!(!version(None, None, Some(5)).is(&version(None, None, Some(5))));
        assert!(!version(Some("W/\"a\""), None, None).is(&version(Some("W/\"a\""), None, None)));
    }

    #[test]
    fn only_a_strong_tag_or_a_date_validates_a_range() {
        assert_eq!(version(Some("\"a\""), Some("d"), None).validator().unwrap(), "\"a\"");
        assert_eq!(version(Some("W/\"a\""), Some("d"), None).validator().unwrap(), "d");
        assert_eq!(version(Some("W/\"a\""), None, None).validator(), None);
    }

    #[test]
    fn the_last_part_of_the_path_is_the_name() {
        let transport = Transport::new(&crate::client::TransportOptions::default()).unwrap();
        for (url, name) in [
            ("https://h/a/noble%20x.img?x=/y", Some("noble x.img")),
            ("https://h/", None),
            ("https://h", None),
        ] {
            let source = HttpSource::new(
                transport.clone(),
                url.parse().unwrap(),
                HeaderMap::new(),
                Retries::default(),
            );
            assert_eq!(source.file_name().as_deref(), name, "{url}");
        }
    }
}
