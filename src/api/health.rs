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
        let registry = Arc::clone(&api.registry);
        let ask = async move { registry.check().await.map_err(|error| error.to_string()) };
        api.readiness.judge(ask).await
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
    /// What the store says, by `ask` unless it is being asked already or has answered just now.
    async fn judge(
        &self,
        ask: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Result<(), String> {
        let mut asked = self.0.lock().await;
        if let Some((when, answer)) = &asked.last
            && when.elapsed() < FRESH
        {
            return answer.clone();
        }
        // It stays there until it is done, also when nobody waits for it any more.
        let running = asked.running.get_or_insert_with(|| tokio::spawn(ask));
        let done = tokio::time::timeout(PATIENCE, running).await;
        if done.is_ok() {
            asked.running = None;
        }
        let answer = match done {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the storage has not answered within {} seconds", PATIENCE.as_secs())),
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

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stands_still_is_said_to_within_seconds_and_asked_once() {
        let readiness = Readiness::default();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let begun = Instant::now();
        let stalled = readiness.judge(async move { answered.await.map_err(|_| "gone".to_owned())? }).await;
        assert!(stalled.unwrap_err().contains("has not answered"));
        assert_eq!(begun.elapsed(), PATIENCE);

        // Whoever asks next waits for the same answer.
        tokio::time::advance(FRESH).await;
        answer.send(Ok(())).unwrap();
        assert_eq!(readiness.judge(async { Err("asked a second time".to_owned()) }).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_a_moment() {
        let readiness = Readiness::default();
        assert_eq!(readiness.judge(async { Ok(()) }).await, Ok(()));
        assert_eq!(readiness.judge(async { Err("no".to_owned()) }).await, Ok(()));
        tokio::time::advance(FRESH).await;
        assert!(readiness.judge(async { Err("no".to_owned()) }).await.is_err());
    }
}
