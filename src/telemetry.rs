//! Logs, and traces where they are wanted, set up once. Logs go to standard error: standard output belongs to what a command
//! prints.
//!
//! What is logged may come from anywhere: a line is one line, whatever a client has put into a path or a header, and a
//! terminal gets no orders from it.

mod audit_file;
mod line;
mod traces;

use tracing::Subscriber;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub use audit_file::AuditFile;
use line::Lines;
pub use traces::{CommandSpan, InvalidCollector, RequestSpan, TraceSettings, Traces, trace_headers};

/// In the extensions of an answer: what was changed, for those who tell of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// What it is called, where the server has chosen that or the request had it in its body.
    pub name: Option<String>,
    /// It was a dry run: nothing was.
    pub only_looked: bool,
}

/// The target of events about who did what.
const AUDIT: &str = "dvcr::audit";

/// Begins logging what `directives` let through, as text or as JSON.
///
/// Fails when the directives cannot be read.
pub fn init(directives: &str, json: bool) -> Result<(), ParseError> {
    init_with(directives, json, None, None)
}

/// The same, with a file for audit events, which has all of them whatever `directives` say, and with what sends traces.
pub fn init_with(
    directives: &str,
    json: bool,
    audit: Option<AuditFile>,
    traces: Option<&Traces>,
) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(directives)?;
    let colours = !json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().with_writer(Lines::new(std::io::stderr, colours));
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_filter(filter)
            .boxed()
    } else {
        lines.with_ansi(colours).with_filter(filter).boxed()
    };
    let audit = audit.map(|file| {
        let events = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
        let events = events.with_target(false).with_level(false).with_writer(Lines::new(file, false));
        events.with_filter(Targets::new().with_target(AUDIT, tracing::Level::INFO))
    });
    // A second call, in a test, keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(lines).with(audit).with(traces.map(spans)).try_init();
    Ok(())
}

/// What hands spans to those who send them.
fn spans<S>(traces: &Traces) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(traces.tracer())
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(traces::TARGET, tracing::Level::TRACE))
}
