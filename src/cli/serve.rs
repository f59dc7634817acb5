//! `dvcr serve`: the registry, and VirtualImage resources beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use storage_backends::measure::Measured;
use storage_backends::{Filesystem, Location, S3, S3Options, Store};
use tokio::task::JoinHandle;

use super::embedded::Embedded;
use super::upkeep::Upkeep;
use super::{Failure, StopSignals, auth, quotas, retention, runtime, tls, webhooks};
use crate::api::{Api, RequestLimits, Server, ServerOptions, Settings, observation, only_metrics, router};
use crate::config::{Config, ListenAddress, LogFormat, MissingBlobs};
use crate::metrics::Metrics;
use crate::registry::{Registry, Rules};
use crate::telemetry::{self, AuditFile, TraceSettings, Traces};

/// Run the registry, and with it VirtualImage, `VMDisk` and `VMInstance` resources for kubectl.
///
/// kubectl --server=http://127.0.0.1:5000 then works with nothing else: apply, get -w, describe, wait, delete. The
/// resources are in a database of this one process; a cluster is the way to run on more than one machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr serve                                       on 127.0.0.1:5000, data in ./dvcr-data
  dvcr serve --listen [::]:5000 --config /etc/dvcr.toml      with [auth] in it
  dvcr serve --listen [::]:5000 --without-auth     whoever can connect may do everything
  AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… dvcr serve --storage s3://disks/registry
  dvcr serve --storage s3://disks --s3-endpoint http://127.0.0.1:8333

Every setting can stand in a TOML file (--config) or in the environment as well: listen is
DVCR_LISTEN, s3.endpoint is DVCR_S3_ENDPOINT. Flags win over the environment, and that over the file.")]
pub(super) struct Serve {
    #[command(flatten)]
    flags: Flags,
}

/// Settings on the command line; they are checked with all others.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", env = "DVCR_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:5000].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// The data directory [default: ./dvcr-data].
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Where the data is, if not in a directory: `s3://BUCKET/PREFIX`.
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    storage: Option<String>,
    /// An S3 server other than AWS: `http(s)://HOST:PORT`.
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,
    /// Serve VirtualImage resources for kubectl at the same address [default: true if only this machine reaches the
    /// server and its data is in a directory].
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    embedded_api: Option<String>,
    /// The directory of those resources and of volumes [default: the data directory].
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
    /// The certificate of the server, in PEM: it speaks TLS then.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// The key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Listen on addresses that others reach without asking anybody who they are: whoever can connect may do everything.
    #[arg(long)]
    without_auth: bool,
    /// How log lines look: text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Flags {
    pub(super) fn config(&self) -> Result<Config, Failure> {
        Config::load(self.config.as_deref(), self).map_err(|error| Failure::Usage(error.to_string()))
    }
}

impl Provider for &Flags {
    fn metadata(&self) -> Metadata {
        Metadata::named("command line")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let given = [
            ("listen", &self.listen),
            ("data", &self.data),
            ("storage", &self.storage),
            ("embedded_api", &self.embedded_api),
            ("state", &self.state),
            ("log_format", &self.log_format),
            ("log_level", &self.log_level),
        ];
        let mut root: Dict = given
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value.as_deref()?))))
            .collect();
        let mut tables: Map<&str, Dict> = Map::new();
        for (table, key, value) in [
            ("s3", "endpoint", &self.s3_endpoint),
            ("tls", "certificate", &self.tls_certificate),
            ("tls", "key", &self.tls_key),
        ] {
            if let Some(value) = value.as_deref() {
                tables.entry(table).or_default().insert(key.to_owned(), Value::from(value));
            }
        }
        root.extend(tables.into_iter().map(|(name, table)| (name.to_owned(), Value::from(table))));
        if self.without_auth {
            root.insert("without_auth".to_owned(), Value::from(true));
        }
        Ok(Profile::Default.collect(root))
    }
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.flags.config()?;
        let audit = config.audit_log.clone().map(|path| {
            let failed = |error| Failure::because(format!("cannot write to {}", path.display()), &error);
            AuditFile::open(path.clone()).map_err(failed)
        });
        let audit = audit.transpose()?;
        let traces = config.traces_endpoint.clone().map(|endpoint| {
            Traces::begin(&TraceSettings { endpoint, percent: config.traces_percent })
                .map_err(|error| Failure::because("traces_endpoint", &error))
        });
        let traces = traces.transpose()?;
        let json = config.log_format == LogFormat::Json;
        telemetry::init_with(&config.log_level, json, audit.clone(), traces.as_ref())
            .map_err(|error| Failure::Usage(format!("log_level: {error}")))?;
        let served = runtime()?.block_on(async {
            if let Some(audit) = audit {
                reopen_when_told(audit)?;
            }
            serve(&config).await
        });
        if let Some(traces) = traces {
            traces.end();
        }
        served
    }
}

/// Bytes of what was read in a bucket that are kept: of each of some hundred disks that are read at once as much as comes in
/// a second. Arbitrary.
const READ_MEMORY: u64 = 128 << 20;

/// How many requests a client may send.
fn request_limits(config: &Config) -> RequestLimits {
    let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
    RequestLimits {
        per_second: number(config.limits.requests_per_second),
        burst: number(config.limits.burst),
        concurrent: number(config.limits.concurrent_requests),
    }
}

/// What the registry stores how.
fn rules(config: &Config) -> Rules {
    let standard = Rules::default();
    Rules {
        require_blobs: config.missing_blobs == MissingBlobs::Refuse,
        // Who wants everything in chunks wants small blobs so too.
        inline: if config.chunking { standard.inline.min(config.chunk_from) } else { standard.inline },
        chunk_from: config.chunking.then_some(config.chunk_from),
        compression: i32::try_from(config.compression).unwrap_or(i32::MAX),
        index_memory: config.chunk_index_memory,
        read_memory: config.read_memory.unwrap_or(match config.location() {
            Location::Directory(_) => 0,
            Location::Bucket { .. } => READ_MEMORY,
        }),
        grace: Duration::from_secs(config.grace),
        abandoned: Duration::from_secs(config.abandoned_after),
        ..standard
    }
}

async fn serve(config: &Config) -> Result<(), Failure> {
    // Before anybody can connect: from then on a signal means to finish what is in flight.
    let signals = StopSignals::listen();
    let tls = tls::open(config)?;
    let metrics = Arc::new(Metrics::new());
    let store =
        open(config, &metrics).await.map_err(|error| Failure::because("cannot open the storage", &error))?;
    if let Some(tls) = tls.clone() {
        metrics.with_certificate(move || tls.expires());
    }
    let capabilities = store.capabilities();
    let store = Arc::new(Measured::new(store, metrics.store()));
    let idle_timeout = Duration::from_secs(config.idle_timeout);
    let settings = Settings {
        idle_timeout,
        max_manifest: usize::try_from(config.max_manifest).unwrap_or(usize::MAX),
        trusted_proxies: config.trusted_proxies.clone(),
        limits: request_limits(config),
    };
    let registry = Registry::with_rules(store, rules(config))
        .with_retention(retention::rules(config))
        .with_quotas(quotas::quotas(config));
    let registry = Arc::new(registry);
    let learning = Arc::clone(&registry);
    tokio::spawn(async move { learning.learn_chunks().await });
    let auth = auth::open(config)?;
    let mut api = Api::new(Arc::clone(&registry), settings).with_metrics(Arc::clone(&metrics));
    if let Some(auth) = &auth {
        api = api.with_authority(Arc::clone(&auth.authority));
        tokio::spawn(auth.authority.follow());
    }
    let options = ServerOptions { idle_timeout, header_timeout: Duration::from_secs(config.header_timeout) };
    let place = resolve(&config.listen).await?;
    auth::check_address(config, place)?;
    let server = bind(&config.listen, place, options).await?.with_tls(tls.clone());
    let address =
        server.address().map_err(|error| Failure::because("cannot tell where the server listens", &error))?;
    let notifier = webhooks::start(config, &registry, &metrics, address)?;
    // What goes by rule is told too.
    let mut upkeep = Upkeep::begin(config, &registry, &metrics);
    let tokens = auth.as_ref().map(|auth| &auth.tokens);
    let embedded = Embedded::open(config, address, tls.as_ref(), tokens)?;
    let key = embedded.as_ref().map(Embedded::upload_key).or(config.upload_key.clone());
    let api = match key {
        Some(key) => api.with_image_uploads(key),
        None => api,
    };
    let mut resources = embedded.as_ref().map(Embedded::router).unwrap_or_default();
    if let Some(embedded) = &embedded {
        embedded.count_in(&metrics);
    }
    let watched = monitored(config, options, &api).await?;
    if watched.is_none() && address.ip().is_loopback() {
        resources = resources.merge(only_metrics(metrics));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        storage = %location(config),
        backend = capabilities.backend,
        replicas = if capabilities.shared { "any number" } else { "one" },
        resources = if embedded.is_some() { "embedded" } else { "none" },
        auth = if auth.is_some() { "on" } else { "off" },
        webhooks = config.webhooks.len(),
        "listening on {}://{address}",
        if tls.is_some() { "https" } else { "http" },
    );
    if let Some(tls) = tls {
        tokio::spawn(async move { tls.keep().await });
    }
    let controller = embedded.map(Embedded::run);
    let stop = async {
        stopped(signals).await;
        api.stop();
        upkeep.stop();
        // Imports push to this very server, which answers until they have ended.
        if let Some(controller) = controller {
            controller.stop().await;
        }
    };
    server.run(router(api.clone(), resources), stop).await;
    api.drain().await;
    if let Some(notifier) = notifier {
        notifier.stop().await;
    }
    if let Some(watched) = watched {
        watched.abort();
    }
    tracing::info!("stopped");
    Ok(())
}

/// Serves monitoring at an address of its own, if it has one.
async fn monitored(
    config: &Config,
    options: ServerOptions,
    api: &Api,
) -> Result<Option<JoinHandle<()>>, Failure> {
    let Some(listen) = &config.metrics_listen else { return Ok(None) };
    let server = bind(listen, resolve(listen).await?, options).await?;
    Ok(Some(tokio::spawn(server.run(observation(api.clone()), std::future::pending()))))
}

async fn open(config: &Config, metrics: &Metrics) -> storage_backends::Result<Arc<dyn Store>> {
    match config.location() {
        Location::Directory(path) => Ok(Arc::new(Filesystem::open(path).await?)),
        Location::Bucket { bucket, prefix } => {
            // The TLS of the S3 client. A provider that is installed already is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let credentials = config.s3.access_key_id.clone().zip(config.s3.secret_access_key.clone());
            let options = S3Options {
                bucket,
                prefix,
                endpoint: config.s3.endpoint.clone(),
                region: config.s3.region.clone(),
                credentials,
                virtual_hosted_style: config.s3.virtual_hosted_style,
                single_writer: config.s3.single_writer,
                observer: Some(metrics.store()),
            };
            Ok(Arc::new(S3::open(&options).await?))
        }
    }
}

/// The place of the data, as an operator can find it.
fn location(config: &Config) -> String {
    match config.location() {
        Location::Directory(path) => absolute(&path).display().to_string(),
        bucket @ Location::Bucket { .. } => bucket.to_string(),
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The address of where to listen.
async fn resolve(listen: &ListenAddress) -> Result<SocketAddr, Failure> {
    let listen = listen.as_str();
    let failed = |error: std::io::Error| Failure::because(format!("cannot listen on {listen}"), &error);
    let mut addresses = tokio::net::lookup_host(listen).await.map_err(failed)?;
    addresses.next().ok_or_else(|| Failure::Failed(format!("cannot listen on {listen}: it has no address")))
}

async fn bind(
    listen: &ListenAddress,
    address: SocketAddr,
    options: ServerOptions,
) -> Result<Server, Failure> {
    let failed =
        |error: std::io::Error| Failure::because(format!("cannot listen on {}", listen.as_str()), &error);
    Server::bind(address, options).await.map_err(failed)
}

/// Has the file opened anew at each SIGHUP, as logrotate sends it. Without a file the signal ends the process, as it does when its
/// terminal is closed.
fn reopen_when_told(audit: AuditFile) -> Result<(), Failure> {
    let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
        .map_err(|error| Failure::because("cannot listen for SIGHUP", &error))?;
    tokio::spawn(async move {
        while told.recv().await.is_some() {
            audit.reopen();
        }
    });
    Ok(())
}

/// Ready when the process is asked to stop. Asked a second time, it stops at once.
async fn stopped(mut signals: StopSignals) {
    signals.next().await;
    tracing::info!("stopping when the requests in flight are finished; once more to stop at once");
    tokio::spawn(async move {
        signals.next().await;
        tracing::warn!("stopping with requests in flight");
        std::process::exit(1);
    });
}
