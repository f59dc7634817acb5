//! Logs, set up once. They go to standard error: standard output belongs to what a command prints.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;

/// Begins logging what `directives` let through, as text or as JSON.
///
/// Fails when the directives cannot be read.
pub fn init(directives: &str, json: bool) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(directives)?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, in a test, keeps the first one's settings.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(colours).try_init()
    };
    Ok(())
}
