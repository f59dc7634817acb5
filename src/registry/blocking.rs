//! Work that goes on apart from whoever waits for it: on the blocking threads, or as a task.

use tokio::task::JoinHandle;

/// Begins `work` on the blocking threads at once, and ends with what it gives.
pub(super) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    end_of(tokio::task::spawn_blocking(work))
}

/// Begins `work` as a task, which goes on also while nobody polls what this gives: others may wait for it too.
pub(super) fn detached<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    end_of(tokio::spawn(work))
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
