//! Each request gets a name and an origin, is counted, and is one line of the log when its answer has been sent or broken off.
//!
//! Everything that is logged on its behalf stands in a span with its name. Of what is over a limit the line is for those who look for it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use ipnet::IpNet;
use tracing::{Instrument as _, Span};

use super::Api;
use super::admission::OverLimit;
use super::origin::Origin;
use super::query::Query;
use super::request_id::{REQUEST_ID, RequestId};
use super::route;
use crate::metrics;
use crate::telemetry::RequestSpan;

/// What is logged in place of a status if the client went away before there was an answer.
const GONE: u16 = 499;

/// Logs the request when the body of its answer is dropped, or the request itself is.
pub(super) async fn log(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    // Whatever is logged of a request is logged with its name.
    let span = tracing::error_span!(target: "dvcr::request", "request", id = id.as_str());
    request.extensions_mut().insert(id.clone());
    let origin = origin(&request, &api.settings.trusted_proxies);
    if let Some(origin) = origin {
        request.extensions_mut().insert(origin);
    }
    let kind = route::kind(request.uri().path());
    let counted = api.metrics.request(kind, request.method().as_str());
    let header = |name| request.headers().get(name)?.to_str().ok();
    let shown = shown(request.uri());
    let traced = RequestSpan::begin(request.method().as_str(), kind, &shown, id.as_str(), header);
    let line = Line {
        span: span.clone(),
        traced: traced.clone(),
        counted,
        method: request.method().to_string(),
        path: shown,
        client: origin,
        started: Instant::now(),
        status: GONE,
        over_limit: false,
        sent: 0,
        expected: None,
    };
    request.extensions_mut().insert(traced.clone());
    let without_body = request.method() == Method::HEAD;
    let wants_mount = Query::of(request.uri()).get("mount").is_some();
    let method = request.method().clone();
    let received = line.counted.received();
    let count = move |frame: &Frame<Bytes>| received(frame.data_ref().map_or(0, Bytes::len) as u64);
    let request = request.map(|body| Body::new(body.inspect_frame(count)));
    // The log's span is the inner one, which is taken along by whatever goes on elsewhere for the request.
    let response = next.run(request).instrument(span).instrument(traced.span()).await;
    let (mut parts, inner) = response.into_parts();
    parts.headers.insert(REQUEST_ID, id.header());
    let mut line = line;
    line.counted.answered(parts.status.as_u16());
    traced.answered(parts.status.as_u16());
    if let Some(event) = upload_event(kind, &method, parts.status, wants_mount) {
        line.counted.upload(event);
    }
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let expected = if without_body { Some(0) } else { announced.or(inner.size_hint().exact()) };
    let over_limit = parts.extensions.get::<OverLimit>().is_some();
    line.status = parts.status.as_u16();
    (line.over_limit, line.expected) = (over_limit, expected);
    Response::from_parts(parts, Body::new(Logged { inner, line: line.into() }))
}

/// Where a request comes from; `None` if it did not come over the network.
fn origin(request: &Request, trusted: &[IpNet]) -> Option<Origin> {
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    Some(Origin::of(*peer, request.headers(), trusted))
}

/// What became of an upload by an answer.
fn upload_event(kind: &str, method: &Method, status: StatusCode, wants_mount: bool) -> Option<&'static str> {
    match (kind, method.as_str(), status.as_u16()) {
        ("uploads", "POST", 202) => Some("begun"),
        ("uploads", "POST", 201) => Some(if wants_mount { "mounted" } else { "finished" }),
        ("upload", "PUT", 201) => Some("finished"),
        ("upload", "DELETE", 204) => Some("cancelled"),
        _ => None,
    }
}

/// Parameters that some clients put secrets in, although we take none there.
const SECRETS: [&str; 3] = ["token=", "password=", "secret="];

/// A path as it may be logged: what stands behind `/upload/` is a secret, and so may be what somebody puts behind `?`.
fn shown(uri: &Uri) -> String {
    let query = uri.query().unwrap_or_default();
    match uri.path() {
        path if path.starts_with("/upload/") => "/upload/…".to_owned(),
        path if SECRETS.iter().any(|name| query.contains(name)) => format!("{path}?…"),
        _ => uri.to_string(),
    }
}

/// A line of the log, written when it is dropped.
struct Line {
    span: Span,
    traced: RequestSpan,
    counted: metrics::Request,
    method: String,
    path: String,
    client: Option<Origin>,
    started: Instant,
    status: u16,
    /// It was refused because there were too many like it, and so are the lines.
    over_limit: bool,
    sent: u64,
    /// Bytes in the whole body. Whoever has sent so many does not ask a stream for its end.
    expected: Option<u64>,
}

/// A body that counts what is sent.
struct Logged {
    inner: Body,
    line: Box<Line>,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.line.sent += bytes;
                self.line.counted.sent(bytes);
            }
            Poll::Ready(None) => self.line.expected = Some(self.line.sent),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let line = self;
        let _in = line.span.enter();
        line.traced.sent(line.sent);
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    target: "dvcr::request",
                    method = line.method,
                    path = line.path,
                    status = line.status,
                    sent = line.sent,
                    ms = u64::try_from(line.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    client = line.client.map(tracing::field::display),
                    broken_off = (line.expected != Some(line.sent)).then_some(true),
                    "request"
                )
            };
        }
        if line.over_limit { tell!(debug) } else { tell!(info) }
    }
}
