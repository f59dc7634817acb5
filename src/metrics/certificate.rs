//! The certificate of the server: until when it is good.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::seconds;

type Look = Box<dyn Fn() -> Option<SystemTime> + Send + Sync>;

/// Looks at the certificate that is served when it is asked.
pub(super) struct Certificate(pub(super) Look);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl Collector for Certificate {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(expiry) = (self.0)() else { return Ok(()) };
        ConstGauge::new(seconds(expiry)).encode(encoder.encode_descriptor(
            "dvcr_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires, in seconds since 1970",
            None,
            MetricType::Gauge,
        )?)
    }
}
