//! Whether there is a registry here, whether it lives, whether it can work.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Api;
use crate::registry::Registry;

/// end-1: this is a registry of version 2.
pub(super) async fn version() -> Response {
    ([(CONTENT_TYPE, "application/json")], "{}").into_response()
}

/// The process serves requests.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// The store answers too, and the process is to go on.
pub(super) async fn ready(State(api): State<Api>) -> Response {
    let judged = if api.stopping.is_cancelled() {
        Err("the server is stopping".to_owned())
    } else {
        api.readiness.of(&api.registry).await
    };
    match judged {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// How long the store may take to answer: a probe that waits for longer has given up.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long an answer holds, so that any number of probes cost the store one call.
const FRESH: Duration = Duration::from_secs(1);

/// Asks the store at most once at a time, whoever wants to know: a store that stands still would otherwise hold a thread for each
/// probe.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    last: Option<(Instant, Result<(), String>)>,
    running: Option<JoinHandle<Result<(), String>>>,
}

impl Readiness {
    async fn of(&self, registry: &Arc<Registry>) -> Result<(), String> {
        let mut asked = self.0.lock().await;
        if let Some((when, answer)) = &asked.last
            && when.elapsed() < FRESH
        {
            return answer.clone();
        }
        let mut running = asked.running.take().unwrap_or_else(|| {
            let registry = Arc::clone(registry);
            tokio::spawn(async move { registry.check().await.map_err(|error| error.to_string()) })
        });
        let answer = match tokio::time::timeout(PATIENCE, &mut running).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                asked.running = Some(running);
                Err(format!("the storage has not answered within {} seconds", PATIENCE.as_secs()))
            }
        };
        let was_ready = asked.last.as_ref().is_none_or(|(_, answer)| answer.is_ok());
        match &answer {
            Err(reason) if was_ready => tracing::warn!(reason, "not ready"),
            Ok(()) if !was_ready => tracing::info!("ready again"),
            _ => {}
        }
        asked.last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_backends::dawdle::Dawdling;
    use storage_backends::{Memory, MemoryOptions, Store};

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stands_still_is_said_to_within_seconds() {
        let memory: Arc<dyn Store> = Arc::new(Memory::empty(MemoryOptions::default()));
        // Each call takes an hour at one time in 128; one of these does.
        let slow = Arc::new(Dawdling::new(memory, 7, Duration::from_hours(1)));
        let registry = Arc::new(Registry::new(slow));
        let readiness = Readiness::default();
        let mut stalled = None;
        for _ in 0..2000 {
            if let Err(reason) = readiness.of(&registry).await {
                stalled = Some(reason);
                break;
            }
            tokio::time::advance(FRESH).await;
        }
        assert!(stalled.unwrap().contains("has not answered"));
        // It is asked no second time until it has answered, and then it is ready again.
        tokio::time::advance(Duration::from_hours(2)).await;
        assert_eq!(readiness.of(&registry).await, Ok(()));
    }
}
