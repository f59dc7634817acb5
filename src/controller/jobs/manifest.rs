//! The Jobs and claims that are made, as manifests.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use kube::api::ObjectMeta;
use serde_json::{Value, json};
use uuid::Uuid;

use super::JobOptions;
use crate::controller::image::{HttpFile, ImageId, Kind};
use crate::controller::provisioner::{Claim, Content, Order, Supply, Task};
use crate::oci::{Algorithm, Digest};

/// The annotation that says which order a Job is for.
pub(super) const ORDER: &str = "dvcr.virtualization.deckhouse.io/order";

/// The label that says for which image a Job is.
const IMAGE: &str = "dvcr.virtualization.deckhouse.io/image-uid";

/// The annotation that names the image.
const NAME: &str = "dvcr.virtualization.deckhouse.io/image";

/// The label that Jobs of ours are known by.
pub(super) const OURS: &str = "app.kubernetes.io/managed-by=dvcr-controller";

/// The variable with which a pod is let in by the registry.
const TOKEN: &str = "DVCR_REGISTRY_TOKEN";

/// How long a Job may take with all its tries, and for how long its token is good: 2 TB at 10 MB/s take 55 hours.
const LIFETIME: Duration = Duration::from_hours(7 * 24);

/// Where pods tell their progress.
pub(super) const PORT: u16 = 9090;

/// Where the authorities and credentials of the source are.
const SOURCE: &str = "/etc/dvcr/source";

/// The volume of the secret beside a Job.
const SECRET: &str = "source";

/// Where a claim is in a pod.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// What the volume is called.
    volume: &'static str,
    /// Where its file system is.
    folder: &'static str,
    /// Where its device is.
    device: &'static str,
}

/// The claim that is filled, or imported.
const VOLUME: Place = Place { volume: "volume", folder: "/volume", device: "/dev/volume" };

/// The claim that another one is filled with.
const FROM: Place = Place { volume: "from", folder: "/from", device: "/dev/from" };

/// Where a pod says how it has ended.
const LAST_WORD: &str = "/dev/termination-log";

/// The exit code of the commands for what another try cannot help.
const REFUSED: i32 = 3;

/// The user that KubeVirt runs machines as, to whom disks belong.
const USER: i64 = 107;

/// What a secret holds, by key.
pub(super) type SecretData = Vec<(String, Vec<u8>)>;

/// How the claims of an order are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Modes {
    /// The one that is filled or, by an import, read.
    pub(super) volume: Option<VolumeMode>,
    /// The one that another one is filled with.
    pub(super) from: Option<VolumeMode>,
}

/// How a claim is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VolumeMode {
    Filesystem,
    Block,
}

impl VolumeMode {
    pub(super) fn of(claim: &PersistentVolumeClaim) -> Self {
        let mode = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
        if mode == Some("Block") { Self::Block } else { Self::Filesystem }
    }

    fn disk(self, place: Place) -> String {
        match self {
            Self::Filesystem => format!("{}/disk.img", place.folder),
            Self::Block => place.device.to_owned(),
        }
    }
}

/// The name of an order's Job.
pub(super) fn name(order: &Order) -> String {
    let [import, fill] = names(&order.image);
    match order.task {
        Task::Import { .. } => import,
        Task::Fill { .. } => fill,
    }
}

/// The names of all Jobs that an image can have.
pub(super) fn names(image: &ImageId) -> [String; 2] {
    [format!("dvcr-import-{}", image.uid), format!("dvcr-fill-{}", image.uid)]
}

/// The image that a Job is for.
pub(super) fn image(job: &Job) -> Option<ImageId> {
    let uid = job.labels().get(IMAGE)?.clone();
    let (kind, rest) = job.annotations().get(NAME)?.split_once(' ')?;
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let (namespace, name) = match rest.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, rest),
    };
    let is_of_namespace = kind != Kind::ClusterVirtualImage;
    (namespace.is_some() == is_of_namespace).then(|| ImageId { kind, namespace, name: name.to_owned(), uid })
}

/// Tells one order from another. A digest: an order may hold credentials.
pub(super) fn fingerprint(order: &Order) -> String {
    Digest::of(Algorithm::Sha256, format!("{order:?}").as_bytes()).hex().to_owned()
}

/// The name of the secret beside a Job, if it needs one.
pub(super) fn secret_of(job: &Job) -> Option<&str> {
    let volumes = job.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    let source = volumes.iter().find(|volume| volume.name == SECRET)?;
    source.secret.as_ref()?.secret_name.as_deref()
}

/// A name that no secret has had: that of a Job before this one, which had its name, may be there still, and what is in it is out of
/// date.
fn new_secret(job: &str) -> String {
    format!("{job}-{}", Uuid::new_v4().simple())
}

/// The Job of an order, and what its secret has to hold if it needs one. Each Job of an order names another secret.
pub(super) fn job(
    order: &Order,
    namespace: &str,
    modes: Modes,
    options: &JobOptions,
) -> (Job, Option<SecretData>) {
    let name = name(order);
    let secret_name = new_secret(&name);
    let (command, mut secret) = command(order, modes, options);
    let own_namespace = namespace == options.namespace;
    let token = token(&order.task, options);
    let environment = environment(options, token.is_some().then_some(&*secret_name));
    if let Some(token) = token {
        secret.get_or_insert_default().push(("token".to_owned(), token.into_bytes()));
    }
    let mut volumes = vec![json!({ "name": "tmp", "emptyDir": {} })];
    let mut mounts = vec![json!({ "name": "tmp", "mountPath": "/tmp" })];
    let mut devices = Vec::new();
    if secret.is_some() {
        volumes
            .push(json!({ "name": SECRET, "secret": { "secretName": secret_name, "defaultMode": 0o440 } }));
        mounts.push(json!({ "name": SECRET, "mountPath": SOURCE, "readOnly": true }));
    }
    for Mounted { claim, place, mode, is_read } in mounted(&order.task, modes) {
        let source = json!({ "claimName": claim.name, "readOnly": is_read });
        volumes.push(json!({ "name": place.volume, "persistentVolumeClaim": source }));
        match mode {
            VolumeMode::Filesystem => {
                mounts.push(json!({ "name": place.volume, "mountPath": place.folder, "readOnly": is_read }));
            }
            VolumeMode::Block => devices.push(json!({ "name": place.volume, "devicePath": place.device })),
        }
    }
    let labels = BTreeMap::from([
        ("app.kubernetes.io/name", "dvcr"),
        ("app.kubernetes.io/component", "import"),
        ("app.kubernetes.io/managed-by", "dvcr-controller"),
        (IMAGE, order.image.uid.as_str()),
    ]);
    let spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "serviceAccountName": options.service_account.as_ref().filter(|_| own_namespace),
        "imagePullSecrets": options.pull_secret.iter().filter(|_| own_namespace)
            .map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [{
            "name": "dvcr",
            "image": options.image,
            "command": command,
            "env": environment,
            "ports": [{ "name": "progress", "containerPort": PORT }],
            "resources": {
                "requests": { "cpu": "100m", "memory": "64Mi" },
                "limits": { "cpu": options.cpu_limit, "memory": options.memory_limit },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "terminationMessagePath": LAST_WORD,
            // The last lines of a command that fails say why, if it has not said so there.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
            "volumeDevices": devices,
        }],
        "volumes": volumes,
    });
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": { ORDER: fingerprint(order), NAME: order.image.to_string() },
        },
        "spec": {
            "activeDeadlineSeconds": LIFETIME.as_secs(),
            "backoffLimit": 6,
            "podFailurePolicy": { "rules": [{
                "action": "FailJob",
                "onExitCodes": { "containerName": "dvcr", "operator": "In", "values": [REFUSED] },
            }, {
                "action": "Ignore",
                "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }],
            }] },
            "template": { "metadata": { "labels": labels }, "spec": without_nulls(spec) },
        },
    });
    // A manifest of ours has the shape that its type wants; a test makes each.
    (serde_json::from_value(job).unwrap_or_default(), secret)
}

/// The variables of the program; with a secret, the token that is in it.
fn environment(options: &JobOptions, secret: Option<&str>) -> Vec<Value> {
    let mut variables = vec![
        json!({ "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }),
        json!({ "name": "HOME", "value": "/tmp" }),
    ];
    if let Some(endpoint) = &options.traces_endpoint {
        variables.push(json!({ "name": "DVCR_TRACES_ENDPOINT", "value": endpoint }));
    }
    if let Some(secret) = secret {
        // More people may look at Jobs than at secrets.
        let key = json!({ "name": secret, "key": "token" });
        variables.push(json!({ "name": TOKEN, "valueFrom": { "secretKeyRef": key } }));
    }
    variables
}

/// The API has no use for empty fields, and refuses some.
fn without_nulls(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    value
}

/// A claim in a pod.
struct Mounted<'a> {
    claim: &'a Claim,
    place: Place,
    mode: VolumeMode,
    /// Nothing is written to it.
    is_read: bool,
}

/// The claims that the pod of a task has.
fn mounted(task: &Task, modes: Modes) -> Vec<Mounted<'_>> {
    let at = |claim, place, mode: Option<VolumeMode>, is_read| {
        mode.map(|mode| Mounted { claim, place, mode, is_read })
    };
    let (volume, from) = match task {
        Task::Fill { claim, from: Content::Claim(from), .. } => {
            (at(claim, VOLUME, modes.volume, false), at(from, FROM, modes.from, true))
        }
        Task::Fill { claim, .. } => (at(claim, VOLUME, modes.volume, false), None),
        Task::Import { supply: Supply::Claim(claim), .. } => (at(claim, VOLUME, modes.volume, true), None),
        Task::Import { .. } => (None, None),
    };
    volume.into_iter().chain(from).collect()
}

/// What lets the pod of a task in at the registry: to its own repository, and to what it reads.
fn token(task: &Task, options: &JobOptions) -> Option<String> {
    let tokens = options.tokens.as_ref()?;
    let may = match task {
        Task::Import { supply, target } => {
            let uploaded = match supply {
                Supply::Uploaded { repository, .. } => Some((repository.as_str(), "pull")),
                _ => None,
            };
            uploaded.into_iter().chain([(target.repository.as_str(), "pull,push")]).collect()
        }
        Task::Fill { from: Content::Image(image), .. } => vec![(image.repository.as_str(), "pull")],
        Task::Fill { from: Content::Claim(_), .. } => return None,
    };
    Some(tokens.work("job", &may, LIFETIME))
}

/// The command line, and what the secret beside it has to hold.
fn command(order: &Order, modes: Modes, options: &JobOptions) -> (Vec<String>, Option<SecretData>) {
    let mut words: Vec<String> = vec!["/dvcr".to_owned()];
    let mut secret = Vec::new();
    let (image, rest) = match &order.task {
        Task::Import { supply, target } => {
            // What a pod has begun goes with it.
            words.extend(["import", "--no-resume"].map(str::to_owned));
            words.push(format!("--report={LAST_WORD}"));
            let (authorities, checksums, source) = match supply {
                Supply::Http(HttpFile { url, authorities, checksums }) => {
                    (authorities, checksums.as_slice(), url.to_string())
                }
                Supply::Registry { image, authorities, credentials } => {
                    if let Some(credentials) = credentials {
                        secret.push(("config.json".to_owned(), credentials.clone().into_bytes()));
                        words.push(format!("--source-auth-file={SOURCE}/config.json"));
                    }
                    (authorities, [].as_slice(), format!("docker://{image}"))
                }
                Supply::Uploaded { repository, checksums } => {
                    let source = format!("uploaded://{}/{repository}", target.registry);
                    (&None, checksums.as_slice(), source)
                }
                Supply::Claim(_) => (&None, [].as_slice(), disk_at(VOLUME, modes.volume)),
            };
            if let Some(pem) = authorities {
                secret.push(("ca.pem".to_owned(), pem.clone()));
                words.push(format!("--source-ca-file={SOURCE}/ca.pem"));
            }
            words.extend(checksums.iter().map(|checksum| format!("--checksum={checksum}")));
            let is_remote = matches!(supply, Supply::Http(_) | Supply::Registry { .. });
            if is_remote && !options.allow_local_sources {
                words.push("--deny-local-addresses".to_owned());
            }
            if is_remote && !options.deny_networks.is_empty() {
                let networks: Vec<_> = options.deny_networks.iter().map(ToString::to_string).collect();
                words.push(format!("--deny-networks={}", networks.join(",")));
            }
            (target, vec![source, target.to_string()])
        }
        Task::Fill { from: Content::Image(image), size, .. } => {
            words.extend(["pull", "--force", "--format=raw"].map(str::to_owned));
            words.push(format!("--size={size}"));
            words.push(format!("--to={}", disk_at(VOLUME, modes.volume)));
            (image, vec![image.to_string()])
        }
        Task::Fill { from: Content::Claim(_), size, .. } => {
            // The disk of a machine that was never started is not there yet.
            words.extend(["copy-volume", "--missing-is-empty"].map(str::to_owned));
            words.extend([format!("--size={size}"), "--".to_owned()]);
            words.extend([disk_at(FROM, modes.from), disk_at(VOLUME, modes.volume)]);
            return (words, None);
        }
    };
    if options.plain_http {
        words.push(format!("--plain-http={}", image.registry));
    }
    words.push("--progress=none".to_owned());
    words.push(format!("--progress-listen=$(POD_IP):{PORT}"));
    words.push("--".to_owned());
    words.extend(rest);
    (words, Some(secret).filter(|secret| !secret.is_empty()))
}

/// The disk in a claim.
fn disk_at(place: Place, mode: Option<VolumeMode>) -> String {
    mode.unwrap_or(VolumeMode::Filesystem).disk(place)
}

/// How large a claim has to be for a disk of `size` bytes.
pub(super) fn room(size: u64, mode: VolumeMode) -> u64 {
    let bytes = match mode {
        VolumeMode::Block => size,
        // A file system takes up to 6% for itself.
        VolumeMode::Filesystem => size + size / 16 + (64 << 20),
    };
    bytes.div_ceil(1 << 20) << 20
}

/// Whether a claim is an image's. The name of a disk's claim is made of its own name alone, and somebody else may have taken it.
pub(super) fn is_of(claim: &PersistentVolumeClaim, image: &ImageId) -> bool {
    image.kind != Kind::VmDisk || claim.labels().get(IMAGE) == Some(&image.uid)
}

/// The claim for a disk of `size` bytes.
pub(super) fn claim(
    image: &ImageId,
    claim: &Claim,
    storage_class: Option<&str>,
    size: u64,
    class: Option<&StorageClass>,
) -> PersistentVolumeClaim {
    let annotation = |name: &str| {
        let key = format!("virtualdisk.virtualization.deckhouse.io/{name}");
        class.and_then(|class| class.annotations().get(&key).cloned())
    };
    let is_block = annotation("volume-mode").as_deref() == Some("Block");
    let (mode, named) =
        if is_block { (VolumeMode::Block, "Block") } else { (VolumeMode::Filesystem, "Filesystem") };
    let bytes = room(size, mode);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim.name.clone()),
            labels: Some(BTreeMap::from([
                ("app.kubernetes.io/managed-by".to_owned(), "dvcr-controller".to_owned()),
                (IMAGE.to_owned(), image.uid.clone()),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![annotation("access-mode").unwrap_or_else(|| "ReadWriteOnce".to_owned())]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(bytes.to_string()))])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: storage_class.map(str::to_owned),
            volume_mode: Some(named.to_owned()),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{TokenKey, Tokens};

    fn options() -> JobOptions {
        JobOptions {
            namespace: "dvcr".to_owned(),
            image: "dvcr:1".to_owned(),
            plain_http: true,
            allow_local_sources: false,
            deny_networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            service_account: Some("dvcr-import".to_owned()),
            cpu_limit: "2".to_owned(),
            memory_limit: "1Gi".to_owned(),
            pull_secret: None,
            traces_endpoint: Some("http://otel:4318".to_owned()),
            tokens: None,
        }
    }

    fn of(mode: VolumeMode) -> Modes {
        Modes { volume: Some(mode), from: None }
    }

    fn order(task: Task) -> Order {
        let image = ImageId {
            kind: Kind::VirtualImage,
            namespace: Some("default".to_owned()),
            name: "x".to_owned(),
            uid: "5b608020-7361-434f-8000-000000000000".to_owned(),
        };
        Order { image, generation: 1, task }
    }

    fn import(supply: Supply) -> Task {
        Task::Import { supply, target: "dvcr.dvcr.svc:5000/vi/default/x:5".parse().unwrap() }
    }

    fn words(job: &Job) -> Vec<String> {
        let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        pod.containers[0].command.clone().unwrap()
    }

    #[test]
    fn credentials_are_in_the_secret_and_nowhere_else() {
        let supply = Supply::Registry {
            image: "r.example/a:1".parse().unwrap(),
            authorities: Some(b"PEM".to_vec()),
            credentials: Some("{\"auths\":{}}".to_owned()),
        };
        let (job, secret) = job(&order(import(supply)), "dvcr", Modes::default(), &options());
        let keys: Vec<String> = secret.unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["config.json", "ca.pem"]);
        let text = serde_json::to_string(&job).unwrap();
        assert!(!text.contains("auths"), "{text}");
        assert!(words(&job).contains(&"--source-auth-file=/etc/dvcr/source/config.json".to_owned()));
        for word in ["--deny-local-addresses", "--deny-networks=10.0.0.0/8,fd00::/8"] {
            assert!(words(&job).contains(&word.to_owned()), "{word}");
        }
    }

    #[test]
    fn a_job_is_let_in_to_its_own_repository_by_a_secret() {
        let tokens = Tokens::new(TokenKey::random(), Duration::from_mins(5), Duration::from_hours(1));
        let options = JobOptions { tokens: Some(tokens), ..options() };
        let supply = Supply::Uploaded { repository: "uploads/x".parse().unwrap(), checksums: Vec::new() };
        let variable = |job: &Job| {
            let pod = job.spec.as_ref().unwrap().template.spec.clone().unwrap();
            let found = pod.containers[0].env.clone().unwrap().into_iter().find(|env| env.name == TOKEN);
            serde_json::to_value(found.unwrap()).unwrap()
        };
        let claims = |secret: Option<SecretData>| {
            use base64::Engine as _;
            let [(key, token)] = &secret.unwrap()[..] else { panic!("more than a token") };
            assert_eq!(key, "token");
            let token = String::from_utf8(token.clone()).unwrap();
            let claims = token.split('.').nth(1).unwrap();
            let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
            serde_json::from_slice::<Value>(&claims).unwrap()["may"].clone()
        };
        let (ours, secret) = job(&order(import(supply)), "dvcr", Modes::default(), &options);
        assert_eq!(variable(&ours)["valueFrom"]["secretKeyRef"]["key"], "token");
        assert_eq!(claims(secret), json!([["uploads/x", "pull"], ["vi/default/x", "pull,push"]]));
        let claim = Claim { namespace: "default".to_owned(), name: "c".to_owned() };
        let image = "dvcr.dvcr.svc:5000/vi/default/x:5".parse().unwrap();
        let fill = Task::Fill { from: Content::Image(image), claim, storage_class: None, size: 1 };
        let (theirs, secret) = job(&order(fill), "default", of(VolumeMode::Filesystem), &options);
        assert_eq!(variable(&theirs)["valueFrom"]["secretKeyRef"]["key"], "token");
        assert_eq!(claims(secret), json!([["vi/default/x", "pull"]]));
    }

    #[test]
    fn no_job_reads_the_secret_of_the_one_before() {
        let tokens = Tokens::new(TokenKey::random(), Duration::from_mins(5), Duration::from_hours(1));
        let options = JobOptions { tokens: Some(tokens), ..options() };
        let supply = Supply::Uploaded { repository: "uploads/x".parse().unwrap(), checksums: Vec::new() };
        let order = order(import(supply));
        let [(first, _), (again, _)] = [0, 1].map(|_| job(&order, "dvcr", Modes::default(), &options));
        assert_eq!(first.name_any(), again.name_any());
        let names = [&first, &again].map(|job| secret_of(job).unwrap());
        assert_ne!(names[0], names[1]);
        for (job, name) in [&first, &again].into_iter().zip(names) {
            // The token too, and a name that Kubernetes takes.
            let text = serde_json::to_string(job).unwrap();
            assert_eq!(text.matches(name).count(), 2, "{text}");
            assert!(name.starts_with(&job.name_any()) && name.len() < 253, "{name}");
        }
        let supply = Supply::Claim(Claim { namespace: "default".to_owned(), name: "c".to_owned() });
        let without = JobOptions { tokens: None, ..options };
        let (job, _) = job(&super::tests::order(import(supply)), "default", Modes::default(), &without);
        assert_eq!(secret_of(&job), None);
    }

    #[test]
    fn a_job_tells_whose_it_is() {
        let supply = Supply::Claim(Claim { namespace: "default".to_owned(), name: "c".to_owned() });
        let mut order = order(import(supply));
        assert_eq!(image(&job(&order, "default", Modes::default(), &options()).0), Some(order.image.clone()));
        order.image = ImageId {
            kind: Kind::ClusterVirtualImage,
            namespace: None,
            name: "ubuntu-22.04".to_owned(),
            uid: "u".to_owned(),
        };
        assert_eq!(image(&job(&order, "dvcr", Modes::default(), &options()).0), Some(order.image));
    }

    #[test]
    fn a_source_that_looks_like_an_option_is_none() {
        let supply = Supply::Http(HttpFile {
            url: "http://h/-x".parse().unwrap(),
            authorities: None,
            checksums: vec![],
        });
        let (job, secret) = job(&order(import(supply)), "dvcr", Modes::default(), &options());
        assert!(secret.is_none());
        let words = words(&job);
        let end = words.iter().position(|word| word == "--").unwrap();
        assert_eq!(words[end + 1..], ["http://h/-x", "dvcr.dvcr.svc:5000/vi/default/x:5"]);
    }

    #[test]
    fn a_claim_is_a_file_or_a_device() {
        let claim = Claim { namespace: "default".to_owned(), name: "c".to_owned() };
        let fill = Task::Fill {
            from: Content::Image("dvcr.dvcr.svc:5000/vi/default/x:5".parse().unwrap()),
            claim: claim.clone(),
            storage_class: None,
            size: 10 << 20,
        };
        for (mode, path) in
            [(VolumeMode::Filesystem, "--to=/volume/disk.img"), (VolumeMode::Block, "--to=/dev/volume")]
        {
            let (job, _) = job(&order(fill.clone()), "default", of(mode), &options());
            assert!(words(&job).contains(&path.to_owned()));
            let pod = job.spec.unwrap().template.spec.unwrap();
            assert_eq!(pod.volumes.unwrap().len(), 2);
            // The service account is one of our own namespace.
            assert_eq!(pod.service_account_name, None);
        }
        let (job, _) =
            job(&order(import(Supply::Claim(claim))), "default", of(VolumeMode::Block), &options());
        assert_eq!(words(&job).last().unwrap(), "dvcr.dvcr.svc:5000/vi/default/x:5");
    }

    #[test]
    fn a_claim_is_copied_from_another_one_that_is_only_read() {
        let [claim, from] =
            ["c", "d"].map(|name| Claim { namespace: "default".to_owned(), name: name.to_owned() });
        let copy = Task::Fill { from: Content::Claim(from), claim, storage_class: None, size: 7 };
        let modes = Modes { volume: Some(VolumeMode::Block), from: Some(VolumeMode::Filesystem) };
        let (job, secret) = job(&order(copy), "default", modes, &options());
        assert!(secret.is_none());
        assert_eq!(
            words(&job),
            ["/dvcr", "copy-volume", "--missing-is-empty", "--size=7", "--", "/from/disk.img", "/dev/volume"]
        );
        let pod = job.spec.unwrap().template.spec.unwrap();
        let container = &pod.containers[0];
        let mounts = container.volume_mounts.clone().unwrap();
        assert!(mounts.iter().any(|mount| mount.mount_path == "/from" && mount.read_only == Some(true)));
        assert_eq!(container.volume_devices.clone().unwrap()[0].device_path, "/dev/volume");
    }

    #[test]
    fn a_pod_sends_traces_where_the_controller_says() {
        let claim = Claim { namespace: "default".to_owned(), name: "c".to_owned() };
        let (job, _) =
            job(&order(import(Supply::Claim(claim))), "default", of(VolumeMode::Block), &options());
        let pod = job.spec.unwrap().template.spec.unwrap();
        let variables = pod.containers[0].env.clone().unwrap();
        let found = variables.iter().find(|variable| variable.name == "DVCR_TRACES_ENDPOINT").unwrap();
        assert_eq!(found.value.as_deref(), Some("http://otel:4318"));
    }

    #[test]
    fn another_order_has_another_fingerprint() {
        let http = |url: &str| {
            let supply =
                Supply::Http(HttpFile { url: url.parse().unwrap(), authorities: None, checksums: vec![] });
            fingerprint(&order(import(supply)))
        };
        assert_eq!(http("http://a/"), http("http://a/"));
        assert_ne!(http("http://a/"), http("http://b/"));
    }

    #[test]
    fn a_claim_has_room_for_its_disk() {
        let asked = Claim { namespace: "n".to_owned(), name: "c".to_owned() };
        let supply = Supply::Claim(asked.clone());
        let image = order(import(supply)).image;
        let made = claim(&image, &asked, Some("fast"), 1 << 30, None);
        let spec = made.spec.clone().unwrap();
        let size = spec.resources.unwrap().requests.unwrap()["storage"].0.parse::<u64>().unwrap();
        assert!(size > 1 << 30);
        assert_eq!(VolumeMode::of(&made), VolumeMode::Filesystem);
    }
}
