//! Quotas: what they allow, and what there is. Their names are the operator's own, and there are as many as are configured.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::registry::{QuotaStats, Quotas};

/// Quotas as they were counted last.
#[derive(Debug)]
pub(super) struct Counted(pub(super) Arc<Quotas>);

type Value = fn(&QuotaStats) -> Option<u64>;

const GAUGES: [(&str, &str, Value); 4] = [
    ("dvcr_quota_used_bytes", "Bytes that the repositories of a quota have", |quota| Some(quota.used_bytes)),
    ("dvcr_quota_limit_bytes", "Bytes that they may have", |quota| quota.limit_bytes),
    ("dvcr_quota_used_tags", "Tags that the repositories of a quota have", |quota| Some(quota.used_tags)),
    ("dvcr_quota_limit_tags", "Tags that they may have", |quota| quota.limit_tags),
];

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let known = self.0.known();
        if known.is_empty() {
            return Ok(());
        }
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for quota in &known {
                let Some(value) = value(quota) else { continue };
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("quota", quota.name.as_str())])?)?;
            }
        }
        Ok(())
    }
}
