//! Work that would hold up an async thread.

/// Begins `work` on the blocking threads at once, and ends with what it gives.
pub(super) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    let task = tokio::task::spawn_blocking(work);
    async move {
        match task.await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down: nobody will poll this again.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
