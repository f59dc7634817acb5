//! `dvcr controller`: VirtualImage resources of a Kubernetes cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::auth::ControllerTokens;
use super::denied::DeniedArgs;
use super::golden::{self, GoldenArgs};
use super::leader::{Leader, LeaderOptions};
use super::registry::RegistryArgs;
use super::{Failure, StopSignals, runtime};
use crate::api::{Server, ServerOptions, exposition};
use crate::auth::{TokenKey, Tokens};
use crate::client::{Credentials, Retries, TransportOptions};
use crate::config::LogFormat;
use crate::controller::machine::Machines;
use crate::controller::{self, Context, JobOptions, Jobs, Library, Uploads};
use crate::metrics::Metrics;
use crate::oci::RegistryHost;
use crate::telemetry;
use crate::upload_token::UploadKey;

/// What the container of the controller is called in its pod.
const CONTAINER: &str = "controller";

/// Make images of the VirtualImage and ClusterVirtualImage resources of a Kubernetes cluster, and disks of its `VMDisk` resources.
///
/// Imports run in Jobs, one per image, and push to the registry that `dvcr serve` runs. Any number of replicas may run;
/// one of them, which has the Lease, works. The cluster is that of KUBECONFIG, or the one in which the process runs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr controller --registry dvcr.dvcr.svc:5000 --plain-http dvcr.dvcr.svc:5000 --image registry.example.com/dvcr-controller:1.0
  dvcr crds | kubectl apply --server-side -f -          the resources, once")]
pub(super) struct Controller {
    /// The registry, as the controller and the Jobs reach it.
    #[arg(long, value_name = "HOST[:PORT]", env = "DVCR_REGISTRY")]
    registry: RegistryHost,
    /// The name of the registry for nodes and users, in the status of images [default: as --registry].
    #[arg(long, value_name = "HOST[:PORT]", env = "DVCR_REGISTRY_NAME")]
    registry_name: Option<RegistryHost>,
    /// The container image with this program and qemu-img, for Jobs [default: the image that --pod runs].
    #[arg(long, value_name = "IMAGE", env = "DVCR_IMAGE", required_unless_present = "pod")]
    image: Option<String>,
    /// The pod in which the controller runs.
    #[arg(long, value_name = "NAME", env = "DVCR_POD")]
    pod: Option<String>,
    /// Where Jobs and the Lease are [default: the namespace of the process].
    #[arg(long, value_name = "NAMESPACE", env = "DVCR_NAMESPACE")]
    namespace: Option<String>,
    /// The address of the registry for users, in addresses for uploads.
    #[arg(long, value_name = "URL", env = "DVCR_PUBLIC_URL")]
    public_url: Option<Url>,
    /// The secret with the key that addresses for uploads are signed with; it is made when it is missing. The registry
    /// needs the same key, as `DVCR_UPLOAD_KEY`.
    #[arg(long, value_name = "NAME", env = "DVCR_UPLOAD_KEY_SECRET", default_value = "dvcr-upload-key")]
    upload_key_secret: String,
    /// The registry's `auth.token_key`, if it asks who one is: the controller and its Jobs then have tokens of their own.
    #[arg(long, value_name = "KEY", env = "DVCR_AUTH_TOKEN_KEY", hide_env_values = true)]
    token_key: Option<TokenKey>,
    /// Seconds for which an image waits to be uploaded.
    #[arg(long, value_name = "SECONDS", env = "DVCR_UPLOAD_TIMEOUT", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..))]
    upload_timeout: u64,
    /// Seconds between two checks that an image is still there.
    #[arg(long, value_name = "SECONDS", env = "DVCR_PRESENCE_INTERVAL", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    presence_interval: u64,
    /// Let sources be on loopback and link-local addresses of the pods that import them.
    #[arg(long, env = "DVCR_ALLOW_LOCAL_SOURCES", value_parser = clap::builder::FalseyValueParser::new())]
    allow_local_sources: bool,
    /// Make disks of `VMDisk` resources; false where somebody else does, such as Cozystack itself.
    #[arg(long, value_name = "true|false", env = "DVCR_VM_DISKS", default_value_t = true, action = clap::ArgAction::Set)]
    vm_disks: bool,
    /// Make machines of KubeVirt of `VMInstance` resources; false where somebody else does, such as Cozystack itself.
    #[arg(long, value_name = "true|false", env = "DVCR_VM_INSTANCES", default_value_t = true, action = clap::ArgAction::Set)]
    vm_instances: bool,
    /// Whose load balancer leads to machines from outside, by the label service.kubernetes.io/service-proxy-name of their services:
    /// that of Cozystack. Empty: the cluster's own.
    #[arg(long, value_name = "NAME", env = "DVCR_VM_SERVICE_PROXY", default_value = "cozy-proxy")]
    vm_service_proxy: String,
    #[command(flatten)]
    golden: GoldenArgs,
    /// Seconds after which publishers are asked for new builds of golden images; 0: they are not.
    #[arg(long, value_name = "SECONDS", env = "DVCR_GOLDEN_INTERVAL", default_value_t = 86_400)]
    golden_interval: u64,
    #[command(flatten)]
    denied: DeniedArgs,
    /// The service account of the Jobs in the controller's own namespace; it needs no rights.
    #[arg(long, value_name = "NAME", env = "DVCR_JOB_SERVICE_ACCOUNT")]
    job_service_account: Option<String>,
    /// The secret with which nodes pull --image.
    #[arg(long, value_name = "NAME", env = "DVCR_JOB_PULL_SECRET")]
    job_pull_secret: Option<String>,
    /// Processors that a Job may use.
    #[arg(long, value_name = "QUANTITY", default_value = "2")]
    job_cpu: String,
    /// Memory that a Job may use. An import needs less than 192 MiB, but for xz on several threads.
    #[arg(long, value_name = "QUANTITY", default_value = "1Gi")]
    job_memory: String,
    #[command(flatten)]
    client: RegistryArgs,
    /// Where Jobs send their traces: `http(s)://HOST:4318` of an OpenTelemetry collector [default: nowhere].
    #[arg(long, value_name = "URL", env = "DVCR_TRACES_ENDPOINT")]
    traces_endpoint: Option<Url>,
    /// Where /metrics and /livez are served, in plain HTTP [default: nowhere].
    #[arg(long, value_name = "ADDRESS:PORT", env = "DVCR_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT", env = "DVCR_LOG_FORMAT", default_value = "text")]
    log_format: String,
    /// What is logged: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", env = "DVCR_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

/// How often an API server that does not do as it is asked is asked again when the controller starts, one second after the
/// other.
const ATTEMPTS: u32 = 60;

/// Asks an API server that may be starting too: until it has read its roles and bindings it even forbids what is allowed.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, kube::Error>) -> Result<T, kube::Error> {
    let mut attempt = 1;
    loop {
        match ask().await {
            Err(error) if attempt < ATTEMPTS => {
                tracing::warn!(%error, attempt, "the API server is not ready, and is asked again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

impl Controller {
    pub(super) fn run(self) -> Result<(), Failure> {
        let format = match self.log_format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => return Err(Failure::Usage(format!("--log-format is text or json, not {other:?}"))),
        };
        telemetry::init(&self.log_level, format == LogFormat::Json)
            .map_err(|error| Failure::Usage(format!("--log-level: {error}")))?;
        runtime()?.block_on(self.control())
    }

    async fn control(self) -> Result<(), Failure> {
        // The TLS of the API server's client. A provider that is installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = kube::Config::infer()
            .await
            .map_err(|error| Failure::because("cannot find the cluster: is KUBECONFIG set?", &error))?;
        let namespace = self.namespace.clone().unwrap_or_else(|| cluster.default_namespace.clone());
        let api = cluster.cluster_url.to_string();
        let client = kube::Client::try_from(cluster)
            .map_err(|error| Failure::because(format!("cannot speak to {api}"), &error))?;
        let key = self.upload_key(&client, &namespace).await?;
        let image = self.job_image(&client, &namespace).await?;
        let context = self.context(client.clone(), &namespace, key, image)?;
        if let Some(address) = self.metrics_listen {
            let metrics = Arc::new(Metrics::new());
            let census = Arc::clone(&context.census);
            metrics.with_images(move || census.count());
            let imports = Arc::clone(&context.imports);
            metrics.with_imports(context.imports.tally(), move || imports.standing());
            let failed = |error| Failure::because(format!("cannot listen on {address}"), &error);
            let server = Server::bind(address, ServerOptions::default()).await.map_err(failed)?;
            tokio::spawn(server.run(exposition(metrics), std::future::pending()));
        }
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::spawn(async move {
            StopSignals::listen().next().await;
            told.cancel();
        });
        let leader = Leader::new(client, LeaderOptions::new(&namespace));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), api, namespace, registry = %self.registry, "waiting for the Lease");
        let Some(term) = leader.elected(&stop).await else { return Ok(()) };
        tracing::info!("this replica has the Lease, and works");
        let work = tokio::spawn(controller::run(Arc::new(context), stop.clone()));
        let outcome = term.hold(&stop).await;
        stop.cancel();
        controller::wait(work).await;
        if outcome.is_err() {
            // Another replica works by now: what this one still believes is not to be trusted.
            return Err(Failure::Failed("the Lease was lost to another replica".to_owned()));
        }
        term.resign().await;
        tracing::info!("stopped");
        Ok(())
    }

    /// The key that the registry has too. Whichever replica is first makes it.
    async fn upload_key(&self, client: &kube::Client, namespace: &str) -> Result<UploadKey, Failure> {
        let name = self.upload_key_secret.as_str();
        let failed = |error: &kube::Error| Failure::because(format!("secret {namespace}/{name}"), error);
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        loop {
            let found = patiently(async || api.get_opt(name).await).await;
            if let Some(found) = found.map_err(|error| failed(&error))? {
                let data = found.data.unwrap_or_default();
                let text = data.get("key").map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
                let key =
                    text.ok_or_else(|| Failure::Failed(format!("secret {namespace}/{name} has no `key`")))?;
                return key
                    .parse()
                    .map_err(|error| Failure::Failed(format!("secret {namespace}/{name}: {error}")));
            }
            let secret = Secret {
                metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
                string_data: Some([("key".to_owned(), UploadKey::random().to_text())].into()),
                ..Secret::default()
            };
            let created = patiently(async || match api.create(&PostParams::default(), &secret).await {
                Err(kube::Error::Api(error)) if error.code == 409 => Ok(()),
                outcome => outcome.map(|_| ()),
            });
            created.await.map_err(|error| failed(&error))?;
        }
    }

    /// The image of Jobs: the controller's own, however whoever installed it has renamed that.
    async fn job_image(&self, client: &kube::Client, namespace: &str) -> Result<String, Failure> {
        if let Some(image) = &self.image {
            return Ok(image.clone());
        }
        let name = self.pod.as_deref().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        // Listed, as the controller may list pods anyway and need not be allowed to get one.
        let this = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = patiently(async || pods.list(&this).await)
            .await
            .map_err(|error| Failure::because(format!("pod {namespace}/{name}"), &error))?;
        let spec = found.items.into_iter().next().and_then(|pod| pod.spec);
        // Others may have put containers of their own beside it.
        let ours =
            spec.and_then(|spec| spec.containers.into_iter().find(|container| container.name == CONTAINER));
        ours.and_then(|container| container.image).ok_or_else(|| {
            Failure::Failed(format!(
                "pod {namespace}/{name} has no container {CONTAINER} whose image Jobs could run: name one with --image"
            ))
        })
    }

    fn context(
        &self,
        client: kube::Client,
        namespace: &str,
        key: UploadKey,
        image: String,
    ) -> Result<Context, Failure> {
        let patience = TransportOptions::default().patience;
        // How long access tokens live is for the registry to say.
        let tokens = self.token_key.clone().map(|key| Tokens::new(key, Duration::ZERO, Duration::ZERO));
        let registry = match &tokens {
            Some(tokens) => {
                let tokens = Arc::new(ControllerTokens(tokens.clone()));
                let credentials = Credentials::Own { registry: self.registry.clone(), tokens };
                self.client.client_as(credentials, Retries::default(), patience)?
            }
            None => self.client.client(Retries::default(), patience)?,
        };
        let transport = registry.transport().clone();
        let library = Library {
            client: registry.clone(),
            address: self.registry.clone(),
            name: self.registry_name.clone().unwrap_or_else(|| self.registry.clone()),
        };
        let scheme = registry.scheme(&self.registry);
        let address: Url = format!("{scheme}://{}", self.registry)
            .parse()
            .map_err(|error| Failure::Usage(format!("--registry: {error}")))?;
        let uploads = Uploads {
            key,
            patience: Duration::from_secs(self.upload_timeout),
            address: address.clone(),
            external: self.public_url.clone(),
            in_cluster: Some(address),
            transport: transport.clone(),
        };
        let options = JobOptions {
            namespace: namespace.to_owned(),
            image,
            plain_http: scheme == "http",
            allow_local_sources: self.allow_local_sources,
            deny_networks: self.denied.deny_networks.0.clone(),
            service_account: self.job_service_account.clone(),
            cpu_limit: self.job_cpu.clone(),
            memory_limit: self.job_memory.clone(),
            pull_secret: self.job_pull_secret.clone(),
            traces_endpoint: self.traces_endpoint.as_ref().map(Url::to_string),
            tokens,
        };
        let jobs = Arc::new(Jobs::new(client.clone(), library.clone(), transport, options));
        let presence_interval = Duration::from_secs(self.presence_interval);
        let mut golden = golden::open(client.clone(), &self.golden.of_server())?;
        golden.interval = (self.golden_interval > 0).then(|| Duration::from_secs(self.golden_interval));
        let namespace = namespace.to_owned();
        let mut context = Context::new(client, jobs, library, uploads, namespace, golden, presence_interval);
        context.makes_disks = self.vm_disks;
        // They have disks of ours.
        let ours = self.vm_disks && self.vm_instances;
        let service_proxy = self.vm_service_proxy.clone();
        context.machines = if ours { Machines::KubeVirt { service_proxy } } else { Machines::NotOurs };
        Ok(context)
    }
}
