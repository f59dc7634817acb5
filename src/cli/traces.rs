//! Traces of commands: each is a span, and what it asks of its registry is in the same trace.

use url::Url;

use super::Command;
use crate::telemetry::{TraceSettings, Traces};

/// Begins to send, where the environment says where to. Fails with a sentence, which is no reason to refuse the work.
pub(super) fn begin() -> Result<Option<Traces>, String> {
    let setting = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(text) = setting("DVCR_TRACES_ENDPOINT") else { return Ok(None) };
    let endpoint: Url = text.parse().map_err(|error| format!("DVCR_TRACES_ENDPOINT is no URL: {error}"))?;
    let percent = match setting("DVCR_TRACES_PERCENT") {
        None => 100,
        Some(text) => text.parse().map_err(|_| format!("DVCR_TRACES_PERCENT is no number: {text}"))?,
    };
    let traces = Traces::of_command(&TraceSettings { endpoint, percent });
    traces.map(Some).map_err(|error| error.to_string())
}

impl Command {
    /// The name of a command that works with a registry, for its span. A health check would be a trace every few seconds.
    pub(super) fn traced(&self) -> Option<&'static str> {
        Some(match self {
            Self::Import(_) => "import",
            Self::Pull(_) => "pull",
            Self::Inspect(_) => "inspect",
            Self::Ls(_) => "ls",
            Self::Rm(_) => "rm",
            Self::Copy(_) => "copy",
            Self::Stats(_) => "stats",
            Self::Collect(_) => "collect",
            Self::Verify(_) => "verify",
            Self::Rewrite(_) => "rewrite",
            Self::Serve(_)
            | Self::Controller(_)
            | Self::CopyVolume(_)
            | Self::Golden(_)
            | Self::Vm(_)
            | Self::Crds(_)
            | Self::Healthcheck(_)
            | Self::Completion(_) => return None,
        })
    }
}
