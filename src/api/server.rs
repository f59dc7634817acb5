//! Connections: accepting them, how long they may be silent, and letting them finish.
//!
//! `axum::serve` would do but for four things: a client must not hold a connection open without ever sending
//! a request, HTTP/2 needs windows fit for disk images, an idle limit belongs on writes as well (and on each answer over HTTP/2: [`super::unread`]), and whoever is slow to agree
//! on TLS must keep nobody else waiting.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::{Request, Version};
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::tls::Tls;
use super::unread::Streams;

/// How long clients may be silent.
#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Within a body, in either direction. There is no limit on a whole request.
    pub idle_timeout: Duration,
    /// Before and between requests, until the headers are complete; and until there is TLS.
    pub header_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { idle_timeout: Duration::from_mins(1), header_timeout: Duration::from_secs(30) }
    }
}

/// A listener that serves HTTP/1.1 and HTTP/2: over TLS, as the two sides agree, or in cleartext, with prior knowledge.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    options: ServerOptions,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Listens on `address`.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, options, tls: None })
    }

    /// The same server, which speaks TLS only.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    /// Where it listens, with the port that was chosen if none was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is ready, then lets requests in flight finish.
    pub async fn run(self, router: Router, stop: impl Future<Output = ()>) {
        let connections = GracefulShutdown::new();
        let stopping = CancellationToken::new();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    let connection = Connection { client, options: self.options, router: router.clone() };
                    let (tls, watcher) = (self.tls.clone(), connections.watcher());
                    let stopping = stopping.clone();
                    tokio::spawn(async move {
                        // Answers are written whole; waiting for more to send only delays them.
                        let _ = stream.set_nodelay(true);
                        match tls {
                            None => {
                                let stream = guarded(stream, connection.options);
                                connection.serve(stream, watcher).await;
                            }
                            Some(tls) => {
                                let agreed =
                                    stopping.run_until_cancelled(connection.agree(stream, &tls)).await;
                                if let Some(Some(stream)) = agreed {
                                    let router = connection.router.layer(Extension(OverTls));
                                    Connection { router, ..connection }.serve(stream, watcher).await;
                                }
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    // Mostly out of file descriptors: give some back before trying again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        stopping.cancel();
        connections.shutdown().await;
    }
}

/// A stream that ends when nobody takes what is written to it.
type Guarded = Pin<Box<TimeoutStream<TcpStream>>>;

fn guarded(stream: TcpStream, options: ServerOptions) -> Guarded {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(options.idle_timeout));
    Box::pin(stream)
}

/// The first byte of whoever wants to agree on TLS.
const HANDSHAKE: u8 = 22;

/// What a client gets that speaks plain HTTP where TLS is spoken.
const PLAIN: &str =
    "{\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"this port speaks TLS: use https://\"}]}\n";

/// The most that is read of a request to which the answer is known.
const DRAIN: usize = 64 << 10;

/// What is known of a client before it says anything.
struct Connection {
    client: SocketAddr,
    options: ServerOptions,
    router: Router,
}

/// In the extensions of a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(super) struct OverTls;

impl Connection {
    /// Agrees on TLS, within the time that headers may take.
    async fn agree(&self, stream: TcpStream, tls: &Tls) -> Option<TlsStream<Guarded>> {
        let agree = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
                refuse_plain(stream).await?;
                return Ok(None);
            }
            let acceptor = TlsAcceptor::from(tls.server());
            acceptor.accept(guarded(stream, self.options)).await.map(Some)
        };
        match timeout(self.options.header_timeout, agree).await {
            Ok(Ok(agreed)) => agreed,
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, client = %self.client, "no TLS with a client");
                None
            }
            Err(_) => None,
        }
    }

    async fn serve<S>(self, stream: S, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { client, options, router } = self;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(options.header_timeout)
            .keep_alive_timeout(options.header_timeout)
            // The defaults of 64 KiB make a push wait for every round trip.
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);

        let router = router.layer(Extension(ConnectInfo(client)));
        let started = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&started);
        let streams = Streams::new(options.idle_timeout);
        let answered = Arc::clone(&streams);
        let service = service_fn(move |request: Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            // Over HTTP/1 the connection itself stands still, which `guarded` ends.
            let stream = (request.version() == Version::HTTP_2).then(|| answered.begin());
            let answer = router.clone().oneshot(request);
            async move {
                let answer = answer.await?;
                Ok::<_, Infallible>(match stream {
                    Some(stream) => stream.answer(answer),
                    None => answer,
                })
            }
        });
        let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::pin!(connection);
        let silence = tokio::time::sleep(options.header_timeout);
        tokio::pin!(silence);
        let served = async {
            tokio::select! {
                ended = connection.as_mut() => Some(ended),
                // hyper waits for the first bytes without a limit.
                () = silence => {
                    if !started.load(Ordering::Relaxed) {
                        return None;
                    }
                    Some(connection.await)
                }
            }
        };
        let ended = tokio::select! {
            ended = served => ended,
            () = streams.stand_still() => {
                tracing::debug!(%client, "a connection is ended on which nobody takes answers");
                return;
            }
        };
        let Some(ended) = ended else { return };
        if let Err(error) = ended {
            // Clients that go away are no concern of an operator.
            tracing::debug!(error, %client, "a connection ended early");
        }
    }
}

/// Tells a client that it should have begun with TLS.
async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PLAIN}",
        PLAIN.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing on what is not read would reset the connection, and the answer could be lost with it.
    let (mut piece, mut read) = ([0; 4096], 0);
    while read < DRAIN {
        match stream.read(&mut piece).await? {
            0 => break,
            count => read += count,
        }
    }
    Ok(())
}
