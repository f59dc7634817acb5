//! Work that goes on apart from whoever waits for it: on the blocking threads, or as a task.

use tokio::task::JoinHandle;
use tracing::{Instrument as _, Span};

/// Begins `work` on the blocking threads at once, and ends with what it gives.
pub(super) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    // What it logs belongs to the request.
    let span = Span::current();
    end_of(tokio::task::spawn_blocking(move || span.in_scope(work)))
}

/// Begins `work` as a task, which goes on also while nobody polls what this gives: others may wait for it too.
pub(super) fn detached<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    end_of(tokio::spawn(work.in_current_span()))
}

async fn end_of<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody will poll this again.
            Err(_) => std::future::pending().await,
        },
    }
}
