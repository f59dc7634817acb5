//! One line a request, written when its answer has been sent or broken off.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{ConnectInfo, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Logs the request when the body of its answer is dropped.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let line = Line {
        method: request.method().to_string(),
        path: shown(request.uri()),
        client: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0),
        started: Instant::now(),
        status: 0,
        sent: 0,
        expected: None,
    };
    let without_body = request.method() == Method::HEAD;
    let response = next.run(request).await;
    let (parts, inner) = response.into_parts();
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let expected = if without_body { Some(0) } else { announced.or(inner.size_hint().exact()) };
    let line = Line { status: parts.status.as_u16(), expected, ..line };
    Response::from_parts(parts, Body::new(Logged { inner, line: line.into() }))
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

struct Line {
    method: String,
    path: String,
    client: Option<SocketAddr>,
    started: Instant,
    status: u16,
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
                self.line.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
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

impl Drop for Logged {
    fn drop(&mut self) {
        let line = &self.line;
        tracing::info!(
            target: "dvcr::request",
            method = line.method,
            path = line.path,
            status = line.status,
            sent = line.sent,
            ms = u64::try_from(line.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            client = line.client.map(tracing::field::display),
            broken_off = (line.expected != Some(line.sent)).then_some(true),
            "request"
        );
    }
}
