//! Images of `VirtualImage` and `ClusterVirtualImage` resources, by phase.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

type Count = Box<dyn Fn() -> Vec<(&'static str, &'static str, u64)> + Send + Sync>;

/// Counts images when it is asked.
pub(super) struct Images(pub(super) Count);

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

impl Collector for Images {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "dvcr_images",
            "Images of resources, by phase, as the controller of this process knows them",
            None,
            MetricType::Gauge,
        )?;
        for (kind, phase, count) in (self.0)() {
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(family.encode_family(&[("kind", kind), ("phase", phase)])?)?;
        }
        Ok(())
    }
}
