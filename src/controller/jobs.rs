//! [`Jobs`]: does the work in Jobs of a cluster, one per image.
//!
//! A Job runs `dvcr import` or `dvcr pull` and has no rights in the cluster at all. Imports run in our own namespace,
//! so that neither quotas nor network policies of tenants nor our credentials meet; what reads or writes a claim runs
//! where the claim is. The Job is the memory: a controller that is killed finds it again, and an order is in one Job
//! or in none.

mod manifest;
mod pods;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use ipnet::IpNet;
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams,
    Preconditions, PropagationPolicy,
};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;

use super::crd::{GROUP, VERSION};
use super::image::{HttpFile, ImageId};
use super::library::Library;
use super::provisioner::{
    Claim, Content, Failure, Imported, NoClaim, NotReady, Order, ProvisionError, Provisioner, Report, Supply,
    Task,
};
use super::web;
use crate::apimachinery;
use crate::artifact::RemoteImage;
use crate::auth::Tokens;
use crate::client::{Egress, Retries, Transport};
use crate::importer::{Cause, SourceError, per_second};
use manifest::{Modes, ORDER, SecretData, VolumeMode};

/// What Jobs are made of.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// Where imports run.
    pub namespace: String,
    /// The container image with this program.
    pub image: String,
    /// Whether the registry is spoken to over plain HTTP.
    pub plain_http: bool,
    /// Whether sources may be on loopback and link-local addresses.
    pub allow_local_sources: bool,
    /// Networks that sources may not be in.
    pub deny_networks: Vec<IpNet>,
    /// The service account of the pods, which needs no rights.
    pub service_account: Option<String>,
    /// Processors that a pod may use, as Kubernetes writes them.
    pub cpu_limit: String,
    /// Memory that a pod may use, as Kubernetes writes it.
    pub memory_limit: String,
    /// Image pull secret of the pods in our own namespace.
    pub pull_secret: Option<String>,
    /// Where pods send their traces, if they do.
    pub traces_endpoint: Option<String>,
    /// What makes the tokens with which pods are let in by the registry, if it asks for any.
    pub tokens: Option<Tokens>,
}

/// Does the work in Jobs.
pub struct Jobs {
    client: Client,
    library: Library,
    transport: Transport,
    options: JobOptions,
}

/// How long a pod's progress is waited for.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(2);

/// How long a Job that failed again and again is left alone.
const REST: Duration = Duration::from_mins(5);

impl Jobs {
    /// Jobs that import into the registry of `library`.
    #[must_use]
    pub fn new(client: Client, library: Library, transport: Transport, options: JobOptions) -> Self {
        Self { client, library, transport, options }
    }

    fn jobs(&self, namespace: &str) -> Api<Job> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn claims(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The namespace in which an order is carried out.
    fn namespace_of<'a>(&'a self, task: &'a Task) -> &'a str {
        match task {
            Task::Fill { claim, .. } | Task::Import { supply: Supply::Claim(claim), .. } => &claim.namespace,
            Task::Import { .. } => &self.options.namespace,
        }
    }

    async fn begin(&self, order: &Order) -> Result<Report, ProvisionError> {
        let namespace = self.namespace_of(&order.task);
        let modes = match self.modes(order).await? {
            Ok(modes) => modes,
            Err(NoClaim::ForNow(why)) => return Ok(queued(&why)),
            Err(NoClaim::Finally(error)) => {
                return Ok(Report::Refused(Failure { error, cause: Cause::Other, read: 0 }));
            }
        };
        let (job, secret) = manifest::job(order, namespace, modes, &self.options);
        let created = match self.jobs(namespace).create(&PostParams::default(), &job).await {
            Ok(created) => created,
            // Somebody was faster, or the one before is still going: looked at again in a moment.
            Err(kube::Error::Api(error)) if error.code == 409 => return Ok(queued("The Job is being made.")),
            Err(error) => return Err(error.into()),
        };
        if let Some(data) = secret {
            self.make_secret(namespace, &created, data).await?;
        }
        Ok(queued("The Job was made."))
    }

    /// How the claims of an order are used; the one that is filled is made if it is not there.
    async fn modes(&self, order: &Order) -> Result<Result<Modes, NoClaim>, ProvisionError> {
        Ok(match &order.task {
            Task::Fill { from, claim, storage_class, size } => {
                let from = match from {
                    Content::Claim(from) => match self.claims(&from.namespace).get_opt(&from.name).await? {
                        Some(found) => Some(VolumeMode::of(&found)),
                        None => return Ok(Err(NoClaim::ForNow(format!("The claim {} is gone.", from.name)))),
                    },
                    Content::Image(_) => None,
                };
                let class = storage_class.as_deref();
                let volume = self.claim_with_mode(&order.image, claim, class, *size).await?;
                volume.map(|volume| Modes { volume: Some(volume), from })
            }
            Task::Import { supply: Supply::Claim(claim), .. } => {
                Ok(Modes { volume: Some(self.mode_of(claim).await?), from: None })
            }
            Task::Import { .. } => Ok(Modes::default()),
        })
    }

    /// The secret goes with the Job that owns it, and is no other Job's; the pod waits for it.
    async fn make_secret(&self, namespace: &str, job: &Job, data: SecretData) -> Result<(), ProvisionError> {
        let Some(name) = manifest::secret_of(job) else { return Ok(()) };
        let owner = OwnerReference {
            api_version: Job::api_version(&()).into_owned(),
            kind: Job::kind(&()).into_owned(),
            name: job.name_any(),
            uid: job.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: job.metadata.labels.clone(),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value))).collect()),
            ..Secret::default()
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            // We have made it ourselves: nobody else knows the name before the Job is there.
            Err(kube::Error::Api(error)) if error.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The claim of an image, which is made if it is not there; or why it cannot be had.
    async fn claim_with_mode(
        &self,
        image: &ImageId,
        claim: &Claim,
        storage_class: Option<&str>,
        size: u64,
    ) -> Result<Result<VolumeMode, NoClaim>, ProvisionError> {
        let api = self.claims(&claim.namespace);
        let judged = |found: &PersistentVolumeClaim| {
            let Claim { namespace, name } = claim;
            if found.metadata.deletion_timestamp.is_some() {
                return Err(NoClaim::ForNow(format!("The claim {namespace}/{name} is being removed.")));
            }
            if manifest::is_of(found, image) {
                return Ok(VolumeMode::of(found));
            }
            Err(NoClaim::Finally(format!(
                "the persistent volume claim {namespace}/{name} is there and is not of this {}: remove it, or take another name",
                image.kind.as_str()
            )))
        };
        if let Some(found) = api.get_opt(&claim.name).await? {
            return Ok(judged(&found));
        }
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let class = match storage_class {
            Some(name) => classes.get_opt(name).await?,
            None => None,
        };
        let wanted = manifest::claim(image, claim, storage_class, size, class.as_ref());
        match api.create(&PostParams::default(), &wanted).await {
            Ok(made) => Ok(judged(&made)),
            Err(kube::Error::Api(error)) if error.code == 409 => match api.get_opt(&claim.name).await? {
                Some(found) => Ok(judged(&found)),
                None => Ok(Err(NoClaim::ForNow("The claim is being made.".to_owned()))),
            },
            // A quota is full, say.
            Err(kube::Error::Api(error)) if error.code == 403 => {
                Ok(Err(NoClaim::ForNow(error.message.clone())))
            }
            Err(kube::Error::Api(error)) if error.code == 422 => {
                Ok(Err(NoClaim::Finally(error.message.clone())))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn mode_of(&self, claim: &Claim) -> Result<VolumeMode, ProvisionError> {
        Ok(VolumeMode::of(&self.claims(&claim.namespace).get(&claim.name).await?))
    }

    /// What a Job that has ended well has made.
    async fn outcome(&self, order: &Order, job: &Job) -> Result<Report, ProvisionError> {
        let Task::Import { target, .. } = &order.task else { return Ok(Report::Filled) };
        let asked = RemoteImage::resolve(&self.library.client, target, None).await;
        let image = asked.map_err(|error| ProvisionError::Broken(error.to_string()))?;
        let disk = image.inspect().await.map_err(|error| ProvisionError::Broken(error.to_string()))?;
        let found = disk.disk.map_err(|refusal| ProvisionError::Broken(refusal.to_string()))?;
        let pods = self.pods(job.namespace().as_deref().unwrap_or_default(), &job.name_any()).await?;
        let status = job.status.as_ref();
        let seconds = status
            .and_then(|status| {
                let (began, ended) = (status.start_time.as_ref()?, status.completion_time.as_ref()?);
                Some(ended.0.duration_since(began.0).as_secs_f64())
            })
            .unwrap_or_default();
        Ok(Report::Imported(Imported {
            format: found.format,
            virtual_size: found.virtual_size,
            stored_size: disk.file.size,
            average: per_second(disk.file.size, seconds.max(1.0)),
            read: pods::read(&pods),
            took: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        }))
    }

    async fn remove(&self, namespace: &str, name: &str) -> Result<bool, ProvisionError> {
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match self.jobs(namespace).delete(name, &parameters).await {
            Ok(_) => {}
            Err(kube::Error::Api(error)) if error.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        let is_gone = self.jobs(namespace).get_opt(name).await?.is_none();
        Ok(is_gone && self.pods(namespace, name).await?.is_empty())
    }

    async fn pods(&self, namespace: &str, job: &str) -> Result<Vec<Pod>, ProvisionError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        Ok(api.list(&of_job).await?.items)
    }
}

fn queued(message: &str) -> Report {
    Report::Queued(message.to_owned())
}

#[async_trait]
impl Provisioner for Jobs {
    fn news(&self) -> BoxStream<'static, ImageId> {
        let jobs: Api<Job> = Api::all(self.client.clone());
        let changes = watcher(jobs, watcher::Config::default().labels(manifest::OURS));
        changes
            .default_backoff()
            .touched_objects()
            .filter_map(async |job| match job {
                Ok(job) => manifest::image(&job),
                Err(error) => {
                    tracing::warn!(%error, "the watch of Jobs was interrupted, and is begun again");
                    None
                }
            })
            .boxed()
    }

    async fn observe(&self, order: &Order) -> Result<Report, ProvisionError> {
        let namespace = self.namespace_of(&order.task);
        let name = manifest::name(order);
        let Some(job) = self.jobs(namespace).get_opt(&name).await? else { return self.begin(order).await };
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(queued("The Job before this one is being ended."));
        }
        if job.annotations().get(ORDER) != Some(&manifest::fingerprint(order)) {
            self.remove(namespace, &name).await?;
            return Ok(queued("The Job before this one is being ended."));
        }
        if holds(&job, "Complete") {
            return self.outcome(order, &job).await;
        }
        let pods = self.pods(namespace, &name).await?;
        if let Some(reason) = failed(&job) {
            let failure = pods::complaint(&pods).unwrap_or_else(|| Failure {
                error: reason.message.clone(),
                // Its pods were taken away: the time was over, or the node is gone.
                cause: Cause::Killed,
                read: 0,
            });
            if reason.is_final {
                return Ok(Report::Refused(failure));
            }
            let attempt = job.status.as_ref().and_then(|status| status.failed).unwrap_or(1);
            let wait = rest(&job);
            if wait.is_zero() {
                self.remove(namespace, &name).await?;
            }
            return Ok(Report::Retrying { failure, attempt: attempt.unsigned_abs(), wait });
        }
        let report = pods::report(&pods, &self.transport, PROGRESS_PATIENCE).await?;
        if let (Report::Queued(_), (_, Some(data))) =
            (&report, manifest::job(order, namespace, Modes::default(), &self.options))
        {
            // Whoever made the Job may have ended before it made the secret that the pod waits for.
            self.make_secret(namespace, &job, data).await?;
        }
        Ok(report)
    }

    async fn cancel(&self, image: &ImageId) -> Result<bool, ProvisionError> {
        let own = image.namespace.as_deref().into_iter();
        let mut is_gone = true;
        for namespace in own.chain([self.options.namespace.as_str()]) {
            for name in manifest::names(image) {
                is_gone &= self.remove(namespace, &name).await?;
            }
        }
        Ok(is_gone)
    }

    async fn storage_class(&self, wanted: Option<&str>) -> Result<Result<String, String>, ProvisionError> {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let Some(name) = wanted else {
            let classes = api.list(&ListParams::default()).await?;
            let is_default = |class: &StorageClass| {
                let annotation = "storageclass.kubernetes.io/is-default-class";
                class.annotations().get(annotation).is_some_and(|value| value == "true")
            };
            let found = classes.items.iter().find(|class| is_default(class));
            return Ok(found.map(kube::ResourceExt::name_any).ok_or_else(|| {
                "The cluster has no default storage class: name one in spec.persistentVolumeClaim.storageClassName."
                    .to_owned()
            }));
        };
        let found = api.get_opt(name).await?;
        Ok(found.map(|class| class.name_any()).ok_or_else(|| format!("Storage class {name} does not exist.")))
    }

    async fn disk(&self, namespace: &str, name: &str) -> Result<Result<Claim, NotReady>, ProvisionError> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, "VirtualDisk"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        // The kind itself may be missing, which is a 404 as well.
        let Some(disk) = api.get_opt(name).await? else {
            return Ok(Err(NotReady::Missing(format!("VirtualDisk {name} does not exist"))));
        };
        let status = &disk.data["status"];
        let phase = status["phase"].as_str().unwrap_or("Pending");
        let claim = status["target"]["persistentVolumeClaimName"].as_str();
        let mut machines = status["attachedToVirtualMachines"].as_array().into_iter().flatten();
        if let Some(machine) = machines.find(|machine| machine["mounted"] != false) {
            let machine = machine["name"].as_str().unwrap_or_default();
            return Ok(Err(NotReady::Attached(format!(
                "VirtualDisk {name} is attached to VirtualMachine {machine}: stop the machine first"
            ))));
        }
        Ok(match claim {
            Some(claim) if phase == "Ready" => {
                Ok(Claim { namespace: namespace.to_owned(), name: claim.to_owned() })
            }
            _ => Err(NotReady::Missing(format!("VirtualDisk {name} is not ready: its phase is {phase}"))),
        })
    }

    async fn make_claim(
        &self,
        image: &ImageId,
        claim: &Claim,
        storage_class: Option<&str>,
        size: u64,
    ) -> Result<Result<(), NoClaim>, ProvisionError> {
        // KubeVirt makes the file of an empty disk itself, in the claim's file system.
        Ok(self.claim_with_mode(image, claim, storage_class, size).await?.map(drop))
    }

    async fn version(&self, file: &HttpFile) -> Result<Option<String>, SourceError> {
        let egress = Egress::new(!self.options.allow_local_sources, &self.options.deny_networks);
        web::source(file, &egress, Retries { attempts: 1 })?.version().await
    }

    async fn grow_claim(&self, claim: &Claim, size: u64) -> Result<Result<bool, String>, ProvisionError> {
        let api = self.claims(&claim.namespace);
        let Some(found) = api.get_opt(&claim.name).await? else { return Ok(Ok(false)) };
        let bytes = manifest::room(size, VolumeMode::of(&found));
        let asked = |quantities: Option<&BTreeMap<String, Quantity>>| {
            quantities
                .and_then(|quantities| apimachinery::Quantity::parse(&quantities.get("storage")?.0)?.bytes())
                .unwrap_or(0)
        };
        let spec = found.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        if asked(spec.and_then(|resources| resources.requests.as_ref())) < bytes {
            let requests = json!({ "storage": bytes.to_string() });
            let patch = Patch::Merge(json!({ "spec": { "resources": { "requests": requests } } }));
            return match api.patch(&claim.name, &PatchParams::default(), &patch).await {
                Ok(_) => Ok(Ok(false)),
                // Its class does not let claims grow, or a quota is full.
                Err(kube::Error::Api(error)) if matches!(error.code, 403 | 422) => {
                    Ok(Err(error.message.clone()))
                }
                Err(error) => Err(error.into()),
            };
        }
        let status = found.status.as_ref().and_then(|status| status.capacity.as_ref());
        Ok(Ok(asked(status) >= bytes))
    }

    async fn has_claim(&self, claim: &Claim) -> Result<bool, ProvisionError> {
        let found = self.claims(&claim.namespace).get_opt(&claim.name).await?;
        let is_lost = |claim: &PersistentVolumeClaim| {
            claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost")
        };
        Ok(found.is_some_and(|claim| claim.metadata.deletion_timestamp.is_none() && !is_lost(&claim)))
    }

    async fn remove_claim(&self, image: &ImageId, claim: &Claim) -> Result<bool, ProvisionError> {
        let found = match self.claims(&claim.namespace).get_opt(&claim.name).await? {
            Some(found) if manifest::is_of(&found, image) => found,
            _ => return Ok(true),
        };
        // Not one that has its name meanwhile.
        let preconditions = Some(Preconditions { uid: found.uid(), resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.claims(&claim.namespace).delete(&claim.name, &parameters).await {
            Ok(_) => {}
            Err(kube::Error::Api(error)) if error.code == 404 => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        Ok(self.claims(&claim.namespace).get_opt(&claim.name).await?.is_none())
    }
}

fn holds(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Why a Job has failed.
struct Ended {
    message: String,
    /// The program has said that another try would fail too.
    is_final: bool,
}

fn failed(job: &Job) -> Option<Ended> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let failed =
        conditions.iter().find(|condition| condition.type_ == "Failed" && condition.status == "True")?;
    Some(Ended {
        message: failed.message.clone().unwrap_or_default(),
        is_final: failed.reason.as_deref() == Some("PodFailurePolicy"),
    })
}

/// How long a Job that has failed for good is still left alone, before another one is made.
fn rest(job: &Job) -> Duration {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let since = conditions
        .into_iter()
        .flatten()
        .filter(|condition| condition.type_ == "Failed")
        .find_map(|condition| condition.last_transition_time.as_ref());
    let Some(since) = since else { return Duration::ZERO };
    let elapsed = jiff::Timestamp::now().duration_since(since.0);
    let elapsed = Duration::try_from(elapsed).unwrap_or_default();
    REST.saturating_sub(elapsed)
}
