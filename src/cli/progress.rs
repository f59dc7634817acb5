//! [`ProgressArgs`]: how long work shows that it goes on: on standard error, and to whoever asks over HTTP.

use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::progress_server::Served;

/// How progress is shown.
#[derive(Debug, Clone, Args)]
pub(super) struct ProgressArgs {
    /// How progress is shown on standard error.
    #[arg(long, value_enum, default_value_t = Style::Auto, value_name = "HOW")]
    progress: Style,
    /// Answer every HTTP request to this address with the progress as JSON, for a controller that looks.
    #[arg(long, value_name = "HOST:PORT")]
    progress_listen: Option<SocketAddr>,
}

/// The ways to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Style {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    /// A bar with bytes, rate and time left.
    Bar,
    /// A line every few seconds.
    Plain,
    /// A JSON object a second, one a line.
    Json,
    /// Not at all.
    None,
}

/// How far something is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Snapshot {
    pub(super) phase: &'static str,
    pub(super) done: u64,
    pub(super) total: Option<u64>,
    /// How much of all phases is done, from 0 to 1, if that is known.
    pub(super) fraction: Option<f64>,
    /// What was done in all phases.
    pub(super) in_all: u64,
}

/// How far work is that a registry does, by what it tells.
#[derive(Debug, Default)]
pub(super) struct Told {
    done: AtomicU64,
    total: AtomicU64,
}

impl Told {
    /// So many bytes are to be done.
    pub(super) fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// So many of them are.
    pub(super) fn done(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, phase: &'static str) -> Snapshot {
        let [done, total] = [&self.done, &self.total].map(|bytes| bytes.load(Ordering::Relaxed));
        Snapshot { phase, done, total: Some(total), fraction: None, in_all: done }
    }
}

#[derive(Serialize)]
struct Line {
    phase: &'static str,
    done: u64,
    total: Option<u64>,
    rate: u64,
    seconds_left: Option<u64>,
}

impl ProgressArgs {
    /// Runs `work`, and shows what `look` tells meanwhile.
    pub(super) async fn show<T>(&self, look: impl Fn() -> Snapshot, work: impl Future<Output = T>) -> T {
        let Some(address) = self.progress_listen else { return self.print(look, work).await };
        let served = Served::default();
        let look = || {
            let now = look();
            served.set(now);
            now
        };
        tokio::select! {
            outcome = self.print(&look, work) => outcome,
            never = served.answer(address, &look) => match never {},
        }
    }

    async fn print<T>(&self, look: impl Fn() -> Snapshot, work: impl Future<Output = T>) -> T {
        let is_terminal = std::io::stderr().is_terminal();
        let style = match self.progress {
            Style::Auto if is_terminal => Style::Bar,
            Style::Auto => Style::Plain,
            style => style,
        };
        match style {
            Style::Bar => {
                let bar = Bar::new();
                bar.while_running(look, work).await
            }
            Style::Json => every(Duration::from_secs(1), true, look, print_json, work).await,
            // Short work needs no word.
            Style::Plain => every(Duration::from_secs(5), false, look, print_plain, work).await,
            Style::Auto | Style::None => work.await,
        }
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        Self(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()))
    }

    async fn while_running<T>(&self, look: impl Fn() -> Snapshot, work: impl Future<Output = T>) -> T {
        let known =
            "{prefix:10} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
        let unknown = "{prefix:10} {spinner} {binary_bytes} {binary_bytes_per_sec}";
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        tokio::pin!(work);
        let mut shown: Option<(&str, bool)> = None;
        loop {
            tokio::select! {
                outcome = &mut work => {
                    self.0.finish_and_clear();
                    return outcome;
                }
                _ = ticks.tick() => {
                    let now = look();
                    if shown != Some((now.phase, now.total.is_some())) {
                        let template = if now.total.is_some() { known } else { unknown };
                        if let Ok(style) = ProgressStyle::with_template(template) {
                            self.0.set_style(style.progress_chars("=> "));
                        }
                        self.0.reset();
                        self.0.set_prefix(now.phase);
                        shown = Some((now.phase, now.total.is_some()));
                    }
                    match now.total {
                        Some(total) => self.0.set_length(total),
                        None => self.0.unset_length(),
                    }
                    self.0.set_position(now.done);
                }
            }
        }
    }
}

/// Prints a line every `period` and, with `at_end`, when the work is done.
async fn every<T>(
    period: Duration,
    at_end: bool,
    look: impl Fn() -> Snapshot,
    print: impl Fn(&Line),
    work: impl Future<Output = T>,
) -> T {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    let mut meter = Meter::new();
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => {
                if at_end {
                    print(&meter.line(look()));
                }
                return outcome;
            }
            _ = ticks.tick() => print(&meter.line(look())),
        }
    }
}

/// Computes the rate of the phase that goes on.
struct Meter {
    phase: &'static str,
    began: Instant,
}

impl Meter {
    fn new() -> Self {
        Self { phase: "", began: Instant::now() }
    }

    fn line(&mut self, now: Snapshot) -> Line {
        if self.phase != now.phase {
            *self = Self { phase: now.phase, began: Instant::now() };
        }
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = now.done.saturating_mul(1000) / milliseconds;
        let left = now.total.map(|total| total.saturating_sub(now.done));
        let seconds_left = left.filter(|_| rate > 0).map(|left| left.div_ceil(rate.max(1)));
        Line { phase: now.phase, done: now.done, total: now.total, rate, seconds_left }
    }
}

fn print_json(line: &Line) {
    if let Ok(text) = serde_json::to_string(line) {
        // Nobody to tell if nobody reads it.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

fn print_plain(line: &Line) {
    let total = line.total.map_or(String::new(), |total| format!(" of {}", BinaryBytes(total)));
    let left = line
        .seconds_left
        .filter(|&left| left > 0)
        .map_or(String::new(), |seconds| format!(", {} left", HumanDuration(Duration::from_secs(seconds))));
    let (phase, done, rate) = (line.phase, BinaryBytes(line.done), BinaryBytes(line.rate));
    let _ = writeln!(std::io::stderr(), "{phase}: {done}{total}, {rate}/s{left}");
}
