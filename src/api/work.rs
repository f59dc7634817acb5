//! What a request has begun and what goes on when its client goes away: a change must not stop half-way.
//!
//! It counts as a request of that client until it has ended. Otherwise whoever sends requests and breaks them off (streams of HTTP/2
//! that are reset cost their sender nothing) would have any number of changes under way, and be over no limit.

use axum::http::Extensions;
use tokio::task::JoinHandle;
use tracing::{Instrument as _, Span};

use super::Api;
use super::admission::InFlight;
use crate::telemetry::RequestSpan;

impl Api {
    /// Begins `work` for the request with these `extensions`, apart from its connection. The server waits for it before it stops.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        extensions: &Extensions,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let in_flight: Option<InFlight> = extensions.get().cloned();
        let traced = extensions.get().map_or_else(Span::none, RequestSpan::span);
        let work = async move {
            let _in_flight = in_flight;
            work.await
        };
        self.tasks.spawn(work.in_current_span().instrument(traced))
    }
}
