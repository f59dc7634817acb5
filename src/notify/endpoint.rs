//! [`Endpoint`]: how a receiver is reached, and [`HttpEndpoint`]: by HTTP.
//!
//! Where a webhook leads is the operator's own business, who may want it to lead into their own network: there is no rule of which
//! addresses may be spoken to, as there is for sources that strangers name. Redirects are not followed: they could take a signed
//! event where the operator did not want it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Request, StatusCode};
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;

use super::cloud_event;
use super::signature::Secret;
use crate::client::{ClientError, Transport, TransportOptions};

/// What is sent.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What the event is called, the same at each try: a receiver knows by it what it has had.
    pub id: Uuid,
    /// The event.
    pub body: Bytes,
}

/// It is not known that the receiver has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// Why, without anything that may be secret.
    pub reason: String,
    /// When the receiver wants to be tried again, if it says so.
    pub retry_after: Option<Duration>,
}

/// A receiver of events.
#[async_trait]
pub trait Endpoint: fmt::Debug + Send + Sync {
    /// Tells it of an event, once. It takes no longer than a limit of its own.
    async fn deliver(&self, delivery: Delivery) -> Result<(), Undelivered>;
}

/// How a receiver is reached by HTTP.
#[derive(Debug)]
pub struct HttpOptions {
    /// Where.
    pub url: Url,
    /// What its events are signed with: each signs.
    pub secrets: Vec<Secret>,
    /// More headers for it.
    pub headers: Vec<(String, String)>,
    /// For how long a delivery may take as a whole.
    pub timeout: Duration,
    /// Certificate authorities besides the system's, in PEM.
    pub authority: Option<Vec<u8>>,
}

/// A receiver cannot be reached as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEndpoint {
    /// A header that there cannot be, or that is ours. Its value is not shown.
    #[error("headers: {name:?} {reason}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No client for it.
    #[error("{0}")]
    Client(String),
}

/// A receiver that takes events by POST.
pub struct HttpEndpoint {
    url: Url,
    secrets: Vec<Secret>,
    headers: HeaderMap,
    timeout: Duration,
    transport: Transport,
}

impl HttpEndpoint {
    /// A receiver that is reached in this way.
    pub fn new(options: HttpOptions) -> Result<Self, InvalidEndpoint> {
        let transport = TransportOptions {
            authorities: options.authority.into_iter().collect(),
            patience: options.timeout,
            ..TransportOptions::default()
        };
        let transport = Transport::new(&transport);
        let transport = transport.map_err(|error| InvalidEndpoint::Client(error.to_string()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in options.headers {
            let wrong = |reason| InvalidEndpoint::Header { name: name.clone(), reason };
            let key: HeaderName = name.parse().map_err(|_| wrong("is no name of a header"))?;
            if key.as_str().starts_with("webhook-")
                || matches!(key.as_str(), "content-type" | "content-length")
            {
                return Err(wrong("is set by the registry itself"));
            }
            let mut value =
                HeaderValue::from_str(&value).map_err(|_| wrong("has a value that no header has"))?;
            value.set_sensitive(true);
            headers.append(key, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(cloud_event::CONTENT_TYPE));
        Ok(Self { url: options.url, secrets: options.secrets, headers, timeout: options.timeout, transport })
    }

    /// The request for a delivery at some time, in seconds since 1970.
    fn request(&self, delivery: Delivery, seconds: u64) -> Result<Request, Undelivered> {
        let id = delivery.id.to_string();
        let sign = |secret: &Secret| secret.sign(&id, seconds, &delivery.body);
        let signatures: Vec<String> = self.secrets.iter().map(sign).collect();
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        for (name, value) in [
            ("webhook-id", id.clone()),
            ("webhook-timestamp", seconds.to_string()),
            ("webhook-signature", signatures.join(" ")),
        ] {
            let value = HeaderValue::from_str(&value)
                .map_err(|_| undelivered("it cannot be signed in a header".to_owned()))?;
            request.headers_mut().insert(name, value);
        }
        *request.body_mut() = Some(delivery.body.into());
        Ok(request)
    }
}

#[async_trait]
impl Endpoint for HttpEndpoint {
    async fn deliver(&self, delivery: Delivery) -> Result<(), Undelivered> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = self.request(delivery, now.as_secs())?;
        let answer = match timeout(self.timeout, self.transport.send(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(undelivered(told(&error))),
            Err(_) => return Err(undelivered(silence(self.timeout))),
        };
        // What it says besides is nobody's business.
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let reason = if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            format!("it answers {status}, and redirects are not followed")
        } else {
            format!("it answers {status}")
        };
        let seconds = answer.header(&RETRY_AFTER).and_then(|text| text.parse().ok());
        Err(Undelivered { reason, retry_after: seconds.map(Duration::from_secs) })
    }
}

fn undelivered(reason: String) -> Undelivered {
    Undelivered { reason, retry_after: None }
}

fn silence(patience: Duration) -> String {
    format!("no answer within {} seconds", patience.as_secs())
}

/// Why a request failed, without the address: parts of it may be as good as a password.
fn told(error: &ClientError) -> String {
    match error {
        ClientError::Http { url, .. } => {
            let text = error.to_string();
            text.strip_prefix(url.as_str()).map_or_else(
                || "the request failed".to_owned(),
                |reason| reason.trim_start_matches([':', ' ']).to_owned(),
            )
        }
        ClientError::Silent { patience, .. } => silence(*patience),
        _ => "the request failed".to_owned(),
    }
}

/// Neither where it is nor what it is told besides.
impl fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpEndpoint").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn options(headers: &[(&str, &str)]) -> HttpOptions {
        HttpOptions {
            url: "http://127.0.0.1:1/hooks/T0KEN?key=T0KEN".parse().unwrap(),
            secrets: vec![SECRET.parse().unwrap(), "A".repeat(32).parse().unwrap()],
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            timeout: Duration::from_secs(5),
            authority: None,
        }
    }

    #[test]
    fn a_request_is_signed_with_every_secret() {
        let endpoint = HttpEndpoint::new(options(&[("Authorization", "Bearer T0KEN")])).unwrap();
        let delivery = Delivery { id: Uuid::nil(), body: Bytes::from_static(b"{}") };
        let request = endpoint.request(delivery, 7).unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        let id = "00000000-0000-0000-0000-000000000000";
        assert_eq!((header("webhook-id"), header("webhook-timestamp")), (id.to_owned(), "7".to_owned()));
        let signatures: Vec<String> = header("webhook-signature").split(' ').map(str::to_owned).collect();
        let expected =
            [SECRET, &"A".repeat(32)].map(|text| text.parse::<Secret>().unwrap().sign(id, 7, b"{}"));
        assert_eq!(signatures, expected);
        assert_eq!(header("content-type"), "application/cloudevents+json; charset=utf-8");
        assert_eq!(header("authorization"), "Bearer T0KEN");
        assert!(!format!("{endpoint:?} {request:?}").contains("Bearer"), "{endpoint:?}");
    }

    #[test]
    fn a_header_that_cannot_be_is_refused_without_its_value() {
        for (name, value) in
            [("a b", "T0KEN"), ("x", "T0KEN\n"), ("Webhook-Id", "T0KEN"), ("Content-Type", "T0KEN")]
        {
            let error = HttpEndpoint::new(options(&[(name, value)])).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("T0KEN"), "{error}");
        }
    }

    #[tokio::test]
    async fn why_nobody_answers_is_told_without_the_address() {
        let endpoint = HttpEndpoint::new(options(&[])).unwrap();
        let delivery = Delivery { id: Uuid::nil(), body: Bytes::from_static(b"{}") };
        let Undelivered { reason, .. } = endpoint.deliver(delivery).await.unwrap_err();
        assert!(!reason.is_empty() && !reason.contains("T0KEN"), "{reason}");
    }
}
