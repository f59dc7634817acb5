//! Requests: how many, how long, how much, and what becomes of uploads.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds: from what is in memory to a push of a large disk.
const DURATIONS: [f64; 13] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0, 300.0, 1800.0];

/// The status of a request whose client went away before there was one, as nginx writes it.
const GONE: u16 = 499;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    route: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

/// What is counted of requests.
#[derive(Debug, Clone)]
pub(super) struct Http {
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram>,
    received: Family<Route, Counter>,
    sent: Family<Route, Counter>,
    in_flight: Gauge,
    uploads: Family<Event, Counter>,
}

impl Default for Http {
    fn default() -> Self {
        let durations = Family::new_with_constructor((|| Histogram::new(DURATIONS)) as fn() -> Histogram);
        let uploads = Family::default();
        // There from the beginning, so that their first event is seen as a change.
        for event in ["begun", "finished", "cancelled", "mounted"] {
            let _: &Counter = &uploads.get_or_create(&Event { event });
        }
        Self {
            requests: Family::default(),
            durations,
            received: Family::default(),
            sent: Family::default(),
            in_flight: Gauge::default(),
            uploads,
        }
    }
}

impl Http {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("dvcr_http_requests", "Requests that were answered", self.requests.clone());
        registry.register_with_unit(
            "dvcr_http_request_duration",
            "From the headers of a request to the end of the answer",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register_with_unit(
            "dvcr_http_received",
            "Bytes in bodies of requests",
            Unit::Bytes,
            self.received.clone(),
        );
        registry.register_with_unit(
            "dvcr_http_sent",
            "Bytes in bodies of answers",
            Unit::Bytes,
            self.sent.clone(),
        );
        registry.register(
            "dvcr_http_requests_in_flight",
            "Requests that are being answered",
            self.in_flight.clone(),
        );
        registry.register(
            "dvcr_uploads",
            "Uploads of blobs that were begun, finished, cancelled, or made unnecessary by a mount",
            self.uploads.clone(),
        );
    }

    pub(super) fn begin(&self, route: &'static str, method: &str) -> Request {
        self.in_flight.inc();
        Request {
            received: self.received.get_or_create_owned(&Route { route }),
            sent: self.sent.get_or_create_owned(&Route { route }),
            http: self.clone(),
            route,
            method: word(method),
            begun: Instant::now(),
            status: GONE,
        }
    }
}

/// A method, of which there may be any number.
fn word(method: &str) -> &'static str {
    ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}

/// A request that is being answered; when it is dropped, it was.
#[derive(Debug)]
pub struct Request {
    http: Http,
    route: &'static str,
    method: &'static str,
    begun: Instant,
    status: u16,
    received: Counter,
    sent: Counter,
}

impl Request {
    /// What counts the bytes of the request's body.
    pub fn received(&self) -> impl Fn(u64) + Send + Sync + use<> {
        let counter = self.received.clone();
        move |bytes| {
            counter.inc_by(bytes);
        }
    }

    /// So many bytes of the answer were sent.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    /// What is answered is known.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// What became of an upload.
    pub fn upload(&self, event: &'static str) {
        self.http.uploads.get_or_create(&Event { event }).inc();
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Self { route, method, status, .. } = *self;
        self.http.in_flight.dec();
        self.http.requests.get_or_create(&Answered { route, method, status }).inc();
        self.http
            .durations
            .get_or_create(&Asked { route, method })
            .observe(self.begun.elapsed().as_secs_f64());
    }
}
