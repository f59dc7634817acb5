//! `dvcr import`: a disk from anywhere into a registry.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use url::Url;

use super::denied::DeniedArgs;
use super::output::{OutputArgs, bytes, fields};
use super::progress::{ProgressArgs, Snapshot};
use super::registry::{RegistryArgs, credentials};
use super::size::Size;
use super::{Failure, runtime, target_format, told_to_stop};
use crate::artifact::{FileName, LABEL_FORMAT, LABEL_SIZE, LABEL_VIRTUAL_SIZE, Platform};
use crate::client::{Client, Egress, Retries, TransportOptions};
use crate::disk::{Format, Limits};
use crate::importer::{
    Checksum, Ending, FileSource, Gauge, HttpSource, ImportError, ImportOptions, Imported, Importer, Journal,
    PipeSource, RegistrySource, Source, UploadedSource,
};
use crate::oci::{ImageReference, Reference};

/// Import a disk image into a registry.
///
/// The source is read once where possible, decompressed (gzip, xz, zstd, bzip2), recognised by content (raw, qcow2,
/// vmdk, vdi, vhd, vhdx, iso), checked, and stored as an image with one file under disk/, ready for
/// KubeVirt and CDI. The same disk always gives the same layer, and one that is there is not sent again.
///
/// Exit codes: 0 imported; 1 failed, trying again may help and goes on where it stopped; 2 asked wrongly; 3 refused:
/// the source is not acceptable.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr import https://cloud-images.ubuntu.com/noble/current/noble-server-cloudimg-amd64.img 127.0.0.1:5000/disks/noble:1
  dvcr import --checksum sha256:9c1f… https://example.com/talos.raw.xz 127.0.0.1:5000/disks/talos:1.7
  dvcr import ./windows.iso registry.example.com/iso/windows:2025
  dvcr import /dev/vg0/golden registry.example.com/disks/golden
  zcat disk.gz | dvcr import - 127.0.0.1:5000/disks/piped
  dvcr import docker://quay.io/containerdisks/fedora:41 127.0.0.1:5000/disks/fedora:41")]
pub(super) struct Import {
    /// A URL (http, https), `docker://IMAGE` (a disk image on another registry), a file, a block device, or - for standard input.
    source: String,
    /// Where it goes: `REGISTRY/REPOSITORY[:TAG]`.
    #[arg(value_name = "REFERENCE")]
    target: ImageReference,

    /// A checksum of the source as it comes, ALGORITHM:HEX; all that are given must fit. Algorithms: md5, sha1,
    /// sha256, sha512, streebog256, streebog512.
    #[arg(long, value_name = "ALGORITHM:HEX")]
    checksum: Vec<Checksum>,
    /// The file's name under disk/ [default: disk.FORMAT].
    #[arg(long, value_name = "NAME")]
    file_name: Option<FileName>,
    /// The machine that the disk is for [default: the source image's, or amd64].
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
    /// The instance type that KubeVirt proposes for machines with this disk.
    #[arg(long, value_name = "NAME")]
    instancetype: Option<String>,
    /// The preference that KubeVirt proposes for machines with this disk.
    #[arg(long, value_name = "NAME")]
    preference: Option<String>,
    /// A label for the image's config.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<Pair>,
    /// An annotation for the image's manifest.
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<Pair>,
    /// Take back what was uploaded when told to stop: nobody will go on with it, as where the home directory does not last.
    #[arg(long)]
    no_resume: bool,
    /// Convert to this format with qemu-img before it is stored, raw or qcow2. A compressed qcow2 shares nothing with the version
    /// before, and as qcow2 or raw nearly all. The disk takes space in TMPDIR meanwhile, and is not gone on with later.
    #[arg(long, value_name = "FORMAT", value_parser = target_format)]
    format: Option<Format>,
    /// Send all of the disk, also what the registry has of it in other images.
    #[arg(long)]
    no_delta: bool,

    #[command(flatten)]
    of_source: SourceArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
    /// Write into this file, as JSON, how the import has ended, for a controller that looks.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Source options")]
struct SourceArgs {
    /// A header for the source's server.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<Header>,
    /// Basic authentication at the source's server.
    #[arg(long, value_name = "NAME:PASSWORD", env = "DVCR_SOURCE_USER", hide_env_values = true)]
    user: Option<String>,
    /// Further certificate authorities for the source, in PEM.
    #[arg(long, value_name = "FILE")]
    source_ca_file: Vec<PathBuf>,
    /// Credentials for a docker:// source, in the format of docker's config.json (a pull secret).
    #[arg(long, value_name = "FILE")]
    source_auth_file: Option<PathBuf>,
    /// Which image of an index a docker:// source is, OS/ARCHITECTURE.
    #[arg(long)]
    platform: Option<Platform>,
    /// Refuse sources on loopback and link-local addresses, also behind names and redirects: for imports on behalf
    /// of others.
    #[arg(long, env = "DVCR_DENY_LOCAL_ADDRESSES", value_parser = clap::builder::FalseyValueParser::new())]
    deny_local_addresses: bool,
    #[command(flatten)]
    denied: DeniedArgs,
    /// Seconds after which a silent server, the source's or the registry, counts as a broken connection.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    idle_timeout: u64,
    /// Tries in a row without any progress.
    #[arg(long, value_name = "N", default_value_t = Retries::default().attempts, value_parser = clap::value_parser!(u32).range(1..))]
    retries: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
#[expect(clippy::struct_field_names, reason = "they are the names of the flags")]
struct LimitArgs {
    /// Bytes that may come out of compression.
    #[arg(long, value_name = "SIZE", default_value = "16Ti")]
    max_size: Size,
    /// Bytes that the disk may have for a machine.
    #[arg(long, value_name = "SIZE", default_value = "64Ti")]
    max_virtual_size: Size,
    /// Bytes that may come out of compression for each that goes in, once 1 GiB has come out.
    #[arg(long, value_name = "N", default_value_t = Limits::default().ratio)]
    max_ratio: u64,
}

/// `KEY=VALUE`.
#[derive(Debug, Clone)]
struct Pair(String, String);

/// A label, other than those that the import itself computes.
fn label(text: &str) -> Result<Pair, String> {
    let pair: Pair = text.parse()?;
    if [LABEL_FORMAT, LABEL_SIZE, LABEL_VIRTUAL_SIZE].contains(&pair.0.as_str()) {
        return Err(format!("{} is what the import says of the disk", pair.0));
    }
    Ok(pair)
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err("it must read KEY=VALUE".to_owned()),
        }
    }
}

/// `NAME: VALUE`.
#[derive(Debug, Clone)]
struct Header(HeaderName, HeaderValue);

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("it must read NAME: VALUE")?;
        let name = name.trim().parse().map_err(|_| format!("{name:?} is no name of a header"))?;
        let mut value: HeaderValue =
            value.trim().parse().map_err(|_| "the value has bytes that no header has")?;
        value.set_sensitive(true);
        Ok(Self(name, value))
    }
}

#[derive(Serialize)]
struct Outcome {
    reference: String,
    digest: String,
    layer: OutcomeLayer,
    format: String,
    virtual_size: u64,
    size: u64,
    file: String,
    compression: String,
    source_size: u64,
    uploaded: u64,
    copied: u64,
    passes: u32,
    seconds: f64,
}

#[derive(Serialize)]
struct OutcomeLayer {
    digest: String,
    size: u64,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Failure> {
        if matches!(self.target.reference, Reference::Digest(_)) {
            let target = &self.target;
            return Err(Failure::Usage(format!("{target}: an import needs a tag to give, and no digest")));
        }
        let runtime = runtime()?;
        let outcome = runtime.block_on(self.import());
        // Not by dropping it: a thread may wait for standard input, which may never come.
        runtime.shutdown_background();
        outcome
    }

    async fn import(self) -> Result<(), Failure> {
        let retries = Retries { attempts: self.of_source.retries };
        let client = self.registry.client(retries, Duration::from_secs(self.of_source.idle_timeout))?;
        let source = self.source(retries)?;
        let options = ImportOptions {
            checksums: self.checksum.clone(),
            limits: Limits {
                virtual_size: self.limits.max_virtual_size.0,
                expanded_size: self.limits.max_size.0,
                ratio: self.limits.max_ratio,
            },
            file_name: self.file_name.clone(),
            architecture: self.architecture.clone(),
            labels: map(&self.label),
            annotations: map(&self.annotation),
            instancetype: self.instancetype.clone(),
            preference: self.preference.clone(),
            delta: !self.no_delta,
            format: self.format,
        };
        // What is converted is in a file that the next import does not have.
        let journal = if self.format.is_some() { Journal::default() } else { journal() };
        let importer = Importer::new(client, self.target.clone(), options, journal);
        let progress = importer.progress();
        let gauge = Mutex::new(Gauge::default());
        let look = || Snapshot {
            phase: progress.phase().as_str(),
            done: progress.done(),
            total: progress.total(),
            fraction: gauge.lock().unwrap_or_else(PoisonError::into_inner).look(&progress).fraction,
            in_all: progress.read_in_all(),
        };
        let began = Instant::now();
        // Told to stop, it takes back what could not be gone on with.
        let work = Box::pin(async {
            let import = importer.import(source);
            tokio::pin!(import);
            tokio::select! {
                outcome = &mut import => return outcome,
                () = told_to_stop() => if self.no_resume { importer.abandon() } else { importer.stop() },
            }
            import.await
        });
        let outcome = self.progress.show(look, work).await;
        self.tell(&Ending::of(progress.read_in_all(), outcome.as_ref().err()));
        let outcome = outcome.map_err(|error| failure(&error))?;
        self.print(&outcome, began.elapsed().as_secs_f64())
    }

    /// Whoever asked for it can do without.
    fn tell(&self, ending: &Ending) {
        let Some(path) = &self.report else { return };
        let text = serde_json::to_vec(ending).unwrap_or_default();
        if let Err(error) = std::fs::write(path, text) {
            tracing::warn!(path = %path.display(), %error, "cannot tell how the import has ended");
        }
    }

    fn source(&self, retries: Retries) -> Result<Source, Failure> {
        let text = &self.source;
        if text == "-" {
            return standard_input();
        }
        if let Some(image) = text.strip_prefix("docker://") {
            let image = image.parse().map_err(|error| Failure::Usage(format!("{error}")))?;
            let architecture = self.architecture.as_deref();
            let platform = self.of_source.platform.clone().or(architecture.map(Platform::linux));
            return Ok(Source::Registry(Box::new(RegistrySource::new(
                self.source_client(retries)?,
                image,
                platform,
            ))));
        }
        if let Some(file) = text.strip_prefix("uploaded://") {
            // The controller's word for a file that a user uploaded to the registry.
            let file: ImageReference =
                file.parse().map_err(|error| Failure::Usage(format!("the uploaded file: {error}")))?;
            // It is in our own registry: we are whoever we are there.
            let patience = Duration::from_secs(self.of_source.idle_timeout);
            let repository = self.registry.client(retries, patience)?.repository_of(&file);
            return Ok(Source::Uploaded(UploadedSource::new(repository)));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let url: Url =
                text.parse().map_err(|error| Failure::Usage(format!("the source is no URL: {error}")))?;
            let mut headers = HeaderMap::new();
            for Header(name, value) in &self.of_source.header {
                headers.append(name.clone(), value.clone());
            }
            let transport = self.source_client(retries)?.transport().clone();
            let mut source = HttpSource::new(transport, url, headers, retries);
            if let Some(user) = &self.of_source.user {
                let (name, password) = user
                    .split_once(':')
                    .ok_or_else(|| Failure::Usage("--user must read NAME:PASSWORD".to_owned()))?;
                source = source.with_user(name, password);
            }
            return Ok(Source::Http(Box::new(source)));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(Failure::Usage(format!(
                "sources are http://, https:// and docker://, files, block devices and -; {scheme}:// is none"
            )));
        }
        Ok(Source::File(FileSource::new(text)))
    }

    fn source_client(&self, retries: Retries) -> Result<Client, Failure> {
        let (authorities, insecure) = self.registry.authorities(&self.of_source.source_ca_file)?;
        let egress = Egress::new(self.of_source.deny_local_addresses, &self.of_source.denied.deny_networks.0);
        let patience = Duration::from_secs(self.of_source.idle_timeout);
        let transport =
            TransportOptions { authorities, insecure, egress, patience, ..TransportOptions::default() };
        let credentials = credentials(self.of_source.source_auth_file.as_deref())?;
        self.registry.client_with(transport, credentials, retries)
    }

    fn print(&self, imported: &Imported, seconds: f64) -> Result<(), Failure> {
        let outcome = Outcome {
            reference: self.target.to_string(),
            digest: imported.digest.to_string(),
            layer: OutcomeLayer { digest: imported.layer.to_string(), size: imported.layer_size },
            format: imported.disk.format.to_string(),
            virtual_size: imported.disk.virtual_size,
            size: imported.file_size,
            file: imported.file.path(),
            compression: imported.compression.to_string(),
            source_size: imported.source_size,
            uploaded: imported.uploaded,
            copied: imported.copied,
            passes: imported.passes,
            seconds: (seconds * 1000.0).round() / 1000.0,
        };
        self.output.print(&outcome, || {
            fields(&[
                ("Image", outcome.reference.clone()),
                ("Digest", outcome.digest.clone()),
                ("Format", outcome.format.clone()),
                ("Virtual size", bytes(outcome.virtual_size)),
                ("File", format!("{}, {}", outcome.file, bytes(outcome.size))),
                ("Layer", outcome.layer.digest.clone()),
                ("Uploaded", bytes(outcome.uploaded)),
                ("Copied", format!("{}, which the registry had in other images", bytes(outcome.copied))),
            ])
        })
    }
}

fn map(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs.iter().map(|Pair(key, value)| (key.clone(), value.clone())).collect()
}

/// Standard input: a file that was put there can be read as often as any.
fn standard_input() -> Result<Source, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::Usage("standard input is a terminal: pipe a disk image into it".to_owned()));
    }
    let path = "/dev/stdin";
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    Ok(if is_file {
        Source::File(FileSource::new(path))
    } else {
        Source::Pipe(PipeSource::new(Box::new(stdin)))
    })
}

/// Where begun uploads are remembered (XDG base directories).
fn journal() -> Journal {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
    state.or_else(home).map_or_else(Journal::default, |folder| Journal::new(folder.join("dvcr/uploads")))
}

fn failure(error: &ImportError) -> Failure {
    if matches!(error, ImportError::Stopped) {
        return Failure::Interrupted(error.to_string());
    }
    Failure::judged(error.is_refusal(), error)
}
