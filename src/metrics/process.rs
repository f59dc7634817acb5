//! The process, under the names that Prometheus has for every process.

use std::fmt;

use procfs::process::{LimitValue, Process as Proc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads `/proc/self` when it is asked. What cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(process) = Proc::myself() else { return Ok(()) };
        let mut gauge = |name: &str, help: &str, value: u64| {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        if let Ok(count) = process.fd_count() {
            gauge("process_open_fds", "Open files", count as u64)?;
        }
        if let Ok(LimitValue::Value(limit)) = process.limits().map(|limits| limits.max_open_files.soft_limit)
        {
            gauge("process_max_fds", "Files that may be open", limit)?;
        }
        let Ok(stat) = process.stat() else { return Ok(()) };
        gauge(
            "process_resident_memory_bytes",
            "Memory that is in use",
            stat.rss.saturating_mul(procfs::page_size()),
        )?;
        gauge("process_virtual_memory_bytes", "Memory that is addressed", stat.vsize)?;
        gauge("process_threads", "Threads", u64::try_from(stat.num_threads).unwrap_or(0))?;
        let ticks = procfs::ticks_per_second().max(1);
        if let Ok(boot) = procfs::boot_time_secs() {
            let started = boot.saturating_add(stat.starttime / ticks);
            gauge("process_start_time_seconds", "When the process began, in seconds since 1970", started)?;
        }
        #[allow(clippy::cast_precision_loss)] // Centuries of ticks are exact.
        let seconds = ConstCounter::new((stat.utime + stat.stime) as f64 / ticks as f64);
        let about = "Time on processors";
        seconds.encode(encoder.encode_descriptor("process_cpu_seconds", about, None, MetricType::Counter)?)
    }
}
