//! [`Served`]: the progress of one command, for a controller that asks for it over HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::progress::Snapshot;

/// How old an answer may be.
const FRESH: Duration = Duration::from_millis(500);

/// The last look at the progress.
#[derive(Debug, Clone, Default)]
pub(super) struct Served(Arc<Mutex<Value>>);

impl Served {
    pub(super) fn set(&self, now: Snapshot) {
        let Snapshot { phase, done, total, fraction, in_all } = now;
        let value = json!({
            "phase": phase, "done": done, "total": total, "fraction": fraction, "in_all": in_all,
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Answers for as long as it is let. The work does not depend on it, so what goes wrong is a warning.
    pub(super) async fn answer(&self, address: SocketAddr, look: impl Fn() -> Snapshot) -> Infallible {
        let answers = Arc::clone(&self.0);
        let answer = move || {
            let value = answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async { Json(value) }
        };
        let serve = async {
            let listener = TcpListener::bind(address).await?;
            axum::serve(listener, Router::new().fallback(answer)).await
        };
        tokio::pin!(serve);
        let mut ticks = tokio::time::interval(FRESH);
        loop {
            tokio::select! {
                ended = &mut serve => {
                    tracing::warn!(%address, error = ?ended.err(), "cannot answer about the progress");
                    return std::future::pending().await;
                }
                _ = ticks.tick() => {
                    look();
                }
            }
        }
    }
}
