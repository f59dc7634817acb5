//! VirtualImage resources within `dvcr serve`: the API server, and the controller that works in this process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::HOST;
use axum::http::{Request, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use storage_backends::Location;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use url::Url;

use super::admission::OwnRights;
use super::auth::ControllerTokens;
use super::{Failure, golden};
use crate::api::Tls;
use crate::apiserver::{ApiServer, ApiServerOptions, Resource};
use crate::auth::Tokens;
use crate::client::{Client, ClientOptions, Credentials, Egress, OwnServer, TransportOptions};
use crate::config::Config;
use crate::controller::{self, Context, InProcess, InProcessOptions, Library, Uploads, crd};
use crate::metrics::Metrics;
use crate::oci::RegistryHost;
use crate::upload_token::UploadKey;

/// Where images are that disks of several namespaces share; in a cluster, that of the controller.
const SHARED_NAMESPACE: &str = "dvcr";

/// Resources and their controller, ready to run.
pub(super) struct Embedded {
    server: ApiServer,
    context: Context,
    work: Arc<InProcess>,
    /// Only this machine reaches it.
    is_local: bool,
}

/// A running controller.
pub(super) struct Running {
    server: ApiServer,
    work: Arc<InProcess>,
    stop: CancellationToken,
    controller: JoinHandle<()>,
}

impl Embedded {
    /// Opens the resources of a server that listens on `address`; `None` if it has none.
    pub(super) fn open(
        config: &Config,
        address: SocketAddr,
        tls: Option<&Arc<Tls>>,
        tokens: Option<&Tokens>,
    ) -> Result<Option<Self>, Failure> {
        let is_directory = matches!(config.location(), Location::Directory(_));
        let is_wanted = config.embedded_api.unwrap_or(address.ip().is_loopback() && is_directory);
        let Some(state) = config.state_directory().filter(|_| is_wanted) else { return Ok(None) };
        let failed = |what: &str, error: &dyn std::error::Error| {
            Failure::because(format!("cannot {what} in {}", state.display()), error)
        };
        std::fs::create_dir_all(&state).map_err(|error| failed("keep resources", &error))?;
        let resources = resources()?;
        let options =
            ApiServerOptions { admission: Some(Arc::new(OwnRights)), ..ApiServerOptions::default() };
        let server = ApiServer::open_with(&state.join("resources.redb"), resources, options)
            .map_err(|error| failed("open the resources", &error))?;
        let key = match &config.upload_key {
            Some(key) => key.clone(),
            None => {
                UploadKey::of_file(&state.join("upload-key")).map_err(|error| failed("keep a key", &error))?
            }
        };
        let here = reachable(address);
        let host = || -> Result<RegistryHost, Failure> {
            here.to_string().parse().map_err(|error| Failure::Failed(format!("{here}: {error}")))
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = || -> Result<Url, Failure> {
            format!("{scheme}://{here}").parse().map_err(|error| Failure::Failed(format!("{here}: {error}")))
        };
        let library = Library {
            client: client(host()?, tls, tokens)?,
            address: host()?,
            name: config.registry_name.clone().map_or_else(host, Ok)?,
        };
        let work = Arc::new(InProcess::new(InProcessOptions {
            client: library.client.clone(),
            registry: library.address.clone(),
            egress: Egress::of_server(address.ip(), config.allow_local_sources, &config.deny_networks),
            workers: usize::try_from(config.workers).unwrap_or(usize::MAX >> 4).min(usize::MAX >> 4),
            journal: state.join("imports"),
            volumes: state.join("volumes"),
        }));
        let uploads = Uploads {
            key,
            patience: Duration::from_secs(config.upload_timeout),
            address: url()?,
            external: Some(config.public_url.clone().map_or_else(url, Ok)?),
            in_cluster: Some(url()?),
            transport: library.client.transport().clone(),
        };
        let mut golden = golden::open(in_process(&server), &(&config.golden).into())?;
        golden.interval = (config.golden.interval > 0).then(|| Duration::from_secs(config.golden.interval));
        let context = Context::new(
            in_process(&server),
            Arc::clone(&work) as Arc<_>,
            library,
            uploads,
            SHARED_NAMESPACE.to_owned(),
            golden,
            Duration::from_secs(config.presence_interval),
        );
        Ok(Some(Self { server, context, work, is_local: address.ip().is_loopback() }))
    }

    /// What addresses for uploads are signed with.
    pub(super) fn upload_key(&self) -> UploadKey {
        self.context.uploads.key.clone()
    }

    /// Has the images counted by phase, and their imports.
    pub(super) fn count_in(&self, metrics: &Metrics) {
        let census = Arc::clone(&self.context.census);
        metrics.with_images(move || census.count());
        let imports = Arc::clone(&self.context.imports);
        metrics.with_imports(self.context.imports.tally(), move || imports.standing());
    }

    /// The paths of the API server.
    pub(super) fn router(&self) -> Router {
        let router = self.server.router();
        if self.is_local { router.layer(from_fn(only_by_local_names)) } else { router }
    }

    /// Runs the controller.
    pub(super) fn run(self) -> Running {
        let stop = CancellationToken::new();
        let controller = tokio::spawn(controller::run(Arc::new(self.context), stop.clone()));
        Running { server: self.server, work: self.work, stop, controller }
    }
}

impl Running {
    /// Ends imports, then the controller, then whoever watches.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.work.stop().await;
        self.server.stop();
        controller::wait(self.controller).await;
    }
}

/// A client of this very server.
fn client(host: RegistryHost, tls: Option<&Arc<Tls>>, tokens: Option<&Tokens>) -> Result<Client, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::because("cannot set up a client", error);
    let credentials = match tokens {
        Some(tokens) => {
            Credentials::Own { registry: host.clone(), tokens: Arc::new(ControllerTokens(tokens.clone())) }
        }
        None => Credentials::Anonymous,
    };
    let options = match tls {
        None => ClientOptions { plain_http: vec![host], credentials, ..ClientOptions::default() },
        Some(tls) => {
            let own =
                OwnServer { host: host.clone(), tls: tls.own_client().map_err(|error| failed(&error))? };
            let transport = TransportOptions { own: Some(own), ..TransportOptions::default() };
            ClientOptions { transport, credentials, tls: vec![host], ..ClientOptions::default() }
        }
    };
    Client::new(options).map_err(|error| failed(&error))
}

/// What the embedded API serves.
fn resources() -> Result<Vec<Resource>, Failure> {
    let broken = |error: &dyn std::error::Error| Failure::because("a definition of ours is none", error);
    let mut resources = Vec::new();
    for definition in crd::definitions() {
        let definition = serde_json::to_value(&definition).map_err(|error| broken(&error))?;
        resources.extend(Resource::all_from_crd(&definition).map_err(|error| broken(&error))?);
    }
    Ok(resources)
}

/// Refuses requests that came to this machine by a name that somebody else may have given it: a page in a browser
/// can make its own name mean loopback (DNS rebinding), and would then be let in as if it were of this server.
async fn only_by_local_names(request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let authority = host.map(str::to_owned).or_else(|| request.uri().authority().map(ToString::to_string));
    let is_local =
        authority.is_some_and(|text| text.parse().is_ok_and(|host: RegistryHost| host.is_loopback()));
    if is_local {
        return next.run(request).await;
    }
    let message = "VirtualImage resources are served on this machine only: use --server=http://127.0.0.1:PORT, or https\n";
    (StatusCode::MISDIRECTED_REQUEST, message).into_response()
}

/// A client of the API server without a connection.
fn in_process(server: &ApiServer) -> kube::Client {
    let service = server.router().map_request(|request: Request<kube::client::Body>| request.map(Body::new));
    kube::Client::new(service, "default")
}

/// Where this process reaches itself.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
