//! Connections: accepting them, how long they may be silent, and letting them finish.
//!
//! `axum::serve` would do but for three things: a client must not hold a connection open without ever sending
//! a request, HTTP/2 needs windows fit for disk images, and an idle limit belongs on writes as well.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// How long clients may be silent.
#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Within a body, in either direction. There is no limit on a whole request.
    pub idle_timeout: Duration,
    /// Before and between requests, until the headers are complete.
    pub header_timeout: Duration,
}

/// A listener that serves HTTP/1.1 and cleartext HTTP/2 with prior knowledge.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    options: ServerOptions,
}

impl Server {
    /// Listens on `address`.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, options })
    }

    /// Where it listens, with the port that was chosen if none was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is ready, then lets requests in flight finish.
    pub async fn run(self, router: Router, stop: impl Future<Output = ()>) {
        let connections = GracefulShutdown::new();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    tokio::spawn(serve(stream, client, router.clone(), self.options, connections.watcher()));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    // Mostly out of file descriptors: give some back before trying again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        connections.shutdown().await;
    }
}

async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    router: Router,
    options: ServerOptions,
    watcher: Watcher,
) {
    // Answers are written whole; waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(options.idle_timeout));
    let stream = TokioIo::new(Box::pin(stream));

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
    let service = service_fn(move |request: Request<Incoming>| {
        seen.store(true, Ordering::Relaxed);
        router.clone().oneshot(request)
    });
    let connection = watcher.watch(builder.serve_connection(stream, service).into_owned());
    tokio::pin!(connection);
    let silence = tokio::time::sleep(options.header_timeout);
    tokio::pin!(silence);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // hyper waits for the first bytes without a limit.
        () = silence => {
            if !started.load(Ordering::Relaxed) {
                return;
            }
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients that go away are no concern of an operator.
        tracing::debug!(error, %client, "a connection ended early");
    }
}
