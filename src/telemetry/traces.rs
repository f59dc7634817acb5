//! Traces: one span for each request, and one for each call of the store within it, sent to an OpenTelemetry collector.
//!
//! A command of a client is a span too, and names its trace to its registry, so that both are one.
//!
//! A request that names its trace (W3C's `traceparent`) goes on with it. Spans are sent by a thread of their own, over OTLP in
//! HTTP; when they cannot be sent, or are more than can be, they are dropped: nobody waits for them.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Link, SpanKind, Status, TraceContextExt as _, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of spans that are sent. The log has spans of its own.
pub(super) const TARGET: &str = "dvcr::trace";

/// How long the last spans may take to be sent when the process ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSettings {
    /// The address of OTLP's HTTP at a collector, to which `/v1/traces` is added.
    pub endpoint: url::Url,
    /// Of a hundred traces that begin here, how many are sent. Those that began elsewhere are as whoever began them says.
    pub percent: u64,
}

/// What sends spans, until it is ended.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

/// Spans cannot be sent there.
#[derive(Debug, thiserror::Error)]
#[error("cannot send traces to {endpoint}")]
pub struct InvalidCollector {
    endpoint: url::Url,
    source: opentelemetry_otlp::ExporterBuildError,
}

impl Traces {
    /// Begins to send what a server does.
    pub fn begin(settings: &TraceSettings) -> Result<Self, InvalidCollector> {
        Self::sampled(settings, |sampler| Box::new(OfRequests(sampler)))
    }

    /// Begins to send what a command does.
    pub fn of_command(settings: &TraceSettings) -> Result<Self, InvalidCollector> {
        Self::sampled(settings, |sampler| Box::new(sampler))
    }

    fn sampled(
        settings: &TraceSettings,
        roots: impl FnOnce(Sampler) -> Box<dyn ShouldSample>,
    ) -> Result<Self, InvalidCollector> {
        // The TLS of the client. A provider that is installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = format!("{}/v1/traces", settings.endpoint.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| InvalidCollector { endpoint: settings.endpoint.clone(), source })?;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let sampled = Sampler::TraceIdRatioBased(settings.percent.min(100) as f64 / 100.0);
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(roots(sampled)))
            .with_resource(Resource::builder().with_service_name("dvcr").with_attribute(version).build())
            .build();
        Ok(Self { provider })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("dvcr")
    }

    /// Sends what there is still. Blocks for a few seconds at most.
    pub fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

/// Begins traces with requests alone: what is done in the background would be a trace for each object.
#[derive(Debug, Clone)]
struct OfRequests(Sampler);

impl ShouldSample for OfRequests {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if *kind == SpanKind::Server {
            return self.0.should_sample(parent, id, name, kind, attributes, links);
        }
        let trace_state = parent
            .map_or_else(TraceState::default, |parent| parent.span().span_context().trace_state().clone());
        SamplingResult { decision: SamplingDecision::Drop, attributes: Vec::new(), trace_state }
    }
}

/// The span of a request, by the conventions of OpenTelemetry; nothing where traces are not sent.
#[derive(Debug, Clone)]
pub struct RequestSpan(Span);

impl RequestSpan {
    /// A request has come. `route` is one of a few words, `id` the name of the request in the log, and `header` gives a header of
    /// the request.
    #[must_use]
    pub fn begin<'a>(
        method: &str,
        route: &'static str,
        path: &str,
        id: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Self {
        let span = tracing::trace_span!(
            target: TARGET,
            "request",
            otel.name = format!("{method} {route}"),
            otel.kind = "server",
            http.request.method = method,
            http.route = route,
            url.path = path,
            dvcr.request.id = id,
        );
        if !span.is_disabled() {
            let parent = TraceContextPropagator::new()
                .extract(&Headers([PARENT, STATE].map(|name| (name, header(name)))));
            // Fails only where the span has begun.
            let _ = span.set_parent(parent);
        }
        Self(span)
    }

    /// The span, for what is done in it.
    #[must_use]
    pub fn span(&self) -> Span {
        self.0.clone()
    }

    /// It was answered.
    pub fn answered(&self, status: u16) {
        self.0.set_attribute("http.response.status_code", i64::from(status));
        if status >= 500 {
            self.0.set_status(Status::error(""));
        }
    }

    /// So many bytes of the answer were sent.
    pub fn sent(&self, bytes: u64) {
        self.0.set_attribute("http.response.body.size", i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// What requests of this process say of the trace that its command is.
static HERE: OnceLock<Vec<(&'static str, String)>> = OnceLock::new();

/// The headers with which requests of this process go on with the trace of its command; none, where it has none.
#[must_use]
pub fn trace_headers() -> &'static [(&'static str, String)] {
    HERE.get().map_or(&[], Vec::as_slice)
}

/// The span of the command that this process is.
#[derive(Debug)]
pub struct CommandSpan(Span);

impl CommandSpan {
    /// A command begins, of which there is one in a process.
    #[must_use]
    pub fn begin(name: &'static str) -> Self {
        let span = tracing::trace_span!(target: TARGET, "command", otel.name = format!("dvcr {name}"));
        let mut told = HashMap::new();
        TraceContextPropagator::new().inject_context(&span.context(), &mut told);
        let headers = [PARENT, STATE].into_iter();
        let headers = headers.filter_map(|name| told.remove(name).map(|value| (name, value)));
        // Set once: a second command, in a test, stays in the trace of the first.
        let _ = HERE.set(headers.filter(|(_, value)| !value.is_empty()).collect());
        Self(span)
    }

    /// It has ended.
    pub fn ended(self, well: bool) {
        if !well {
            self.0.set_status(Status::error(""));
        }
    }
}

/// What the trace of a request stands in (W3C, Trace Context).
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

struct Headers<'a>([(&'static str, Option<&'a str>); 2]);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key)?.1
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::SpanData;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl opentelemetry_sdk::trace::SpanExporter for Kept {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(spans);
            Ok(())
        }
    }

    #[test]
    fn a_request_goes_on_with_the_trace_that_it_names() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let traces = Traces { provider };
        let subscriber = tracing_subscriber::registry().with(super::super::spans(&traces));
        tracing::subscriber::with_default(subscriber, || {
            let header = |name: &str| (name == PARENT).then_some(TRACE);
            let request = RequestSpan::begin("GET", "blob", "/v2/a/blobs/x", "r1", header);
            request.answered(503);
            request.span().in_scope(|| tracing::trace_span!(target: TARGET, "store", otel.name = "get"));
            drop(request);
            drop(RequestSpan::begin("PUT", "manifest", "/v2/a/manifests/b", "r2", |_| None));
        });
        traces.provider.force_flush().unwrap();
        let spans = kept.0.lock().unwrap();
        let [store, request, other] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(request.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(request.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(request.name, "GET blob");
        assert!(matches!(request.status, Status::Error { .. }));
        assert_eq!((&*store.name, store.parent_span_id), ("get", request.span_context.span_id()));
        assert_ne!(other.span_context.trace_id(), request.span_context.trace_id());
    }
}
