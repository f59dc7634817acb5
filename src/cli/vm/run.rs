//! `dvcr vm run`: a VMInstance of `dvcr serve`, booted on this machine.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use figment::providers::Serialized;
use figment::value::Dict;
use kube::Api;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::qemu::{Accelerator, Disk, Machine};
use super::seed;
use crate::cli::api_server::ApiServerArgs;
use crate::cli::size::Size;
use crate::cli::{Failure, runtime, told_to_stop};
use crate::config::Config;
use crate::controller::crd::{AttachedDisk, VmDisk, VmInstance};
use crate::controller::{Image as _, machine, volume_path};

/// How long qemu may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Boot a VMInstance from its disks, and have its serial console here.
///
/// The disks are those of the server's data directory: this runs where the server runs. What the machine writes stays, unless
/// --snapshot is given. It is as large as its instance type says, or as --cpus and --memory do, and cloud-init in it finds
/// cloudInit and sshKeys. Ctrl-A X ends it at once, as if the power went; `poweroff` within it ends it well.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr vm run web
  dvcr vm run web --namespace shop --forward 8080:80 --memory 1Gi
  dvcr vm run windows --firmware /usr/share/ovmf/OVMF.fd --display gtk
  dvcr vm run web --print                    the command of qemu, to be changed")]
pub(super) struct Run {
    /// The VMInstance.
    #[arg(value_name = "NAME")]
    name: String,
    /// Its namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    api: ApiServerArgs,
    /// The server's data directory [default: ./dvcr-data].
    #[arg(long, value_name = "DIR", env = "DVCR_DATA")]
    data: Option<PathBuf>,
    /// The server's TOML file with settings.
    #[arg(long, value_name = "FILE", env = "DVCR_CONFIG")]
    config: Option<PathBuf>,
    /// Processors [default: those of its instance type].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    cpus: Option<u64>,
    /// Memory, such as 2Gi [default: that of its instance type].
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Lead a TCP port of this machine's loopback to one of the machine; may be given again.
    #[arg(long, value_name = "HERE:THERE")]
    forward: Vec<Forward>,
    /// How its processors run: `kvm` uses this machine's, `tcg` imitates them and is slow; auto is the first of them that there is.
    #[arg(long, value_name = "auto|kvm|tcg", value_enum, default_value_t = Accelerator::Auto)]
    accel: Accelerator,
    /// Another firmware than BIOS, such as OVMF.
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Throw away in the end what the machine writes.
    #[arg(long)]
    snapshot: bool,
    /// A display of qemu's besides the console, such as gtk or vnc=127.0.0.1:0.
    #[arg(long, value_name = "DISPLAY")]
    display: Option<String>,
    /// The program.
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// Print the command, and run nothing. SEED stands for a folder with user-data and meta-data.
    #[arg(long)]
    print: bool,
    /// Further arguments of qemu.
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// A port here, and one of the machine.
#[derive(Debug, Clone, Copy)]
struct Forward(u16, u16);

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let both = text.split_once(':').and_then(|(here, there)| Some(Self(port(here)?, port(there)?)));
        both.ok_or_else(|| "two ports, such as 2222:22".to_owned())
    }
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        runtime()?.block_on(self.boot())
    }

    async fn boot(self) -> Result<(), Failure> {
        let client = self.api.client().await?;
        let instances: Api<VmInstance> = Api::namespaced(client.clone(), &self.namespace);
        let failed = |error: kube::Error| match error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Failure::Failed(format!(
                "the API server: {}; --kubernetes takes the address and the credentials in KUBECONFIG",
                status.message
            )),
            error => Failure::because("the API server", &error),
        };
        let instance = instances.get_opt(&self.name).await.map_err(failed)?.ok_or_else(|| {
            Failure::Failed(format!(
                "there is no VMInstance {}/{}: `kubectl get vminstances -A` lists them",
                self.namespace, self.name
            ))
        })?;
        machine::check(&instance).map_err(|message| Failure::Refused(format!("{}: {message}", self.name)))?;
        let volumes = self.volumes()?;
        let disks: Api<VmDisk> = Api::namespaced(client, &self.namespace);
        let mut attached = Vec::new();
        for wanted in &instance.spec.disks {
            let name = wanted.name().unwrap_or_default();
            let found = disks.get_opt(name).await.map_err(failed)?;
            attached.push(self.attach(wanted, found, &volumes)?);
        }
        let seed = if self.print { None } else { seed::write(&instance)? };
        let (cpus, memory) = self.size(&instance)?;
        let machine = Machine {
            name: machine::machine_name(&self.name),
            cpus,
            memory,
            uuid: machine::uuid(
                &self.namespace,
                &machine::machine_name(&self.name),
                &instance.spec.cloud_init_seed,
            ),
            disks: attached,
            seed: match &seed {
                Some(seed) => Some(seed.path().to_owned()),
                None => machine::user_data(&instance.spec).map(|_| PathBuf::from("SEED")),
            },
            forwards: self.forward.iter().map(|Forward(here, there)| (*here, *there)).collect(),
            firmware: self.firmware.clone(),
            accelerator: self.accel,
            snapshot: self.snapshot,
            display: self.display.clone(),
        };
        let mut command = Command::new(&self.qemu);
        command.args(machine.arguments()).args(&self.arguments);
        if self.print {
            println!("{}", shown(command.as_std()));
            return Ok(());
        }
        for Forward(here, there) in &self.forward {
            eprintln!("dvcr: port {there} of {} is 127.0.0.1:{here}", self.name);
        }
        eprintln!(
            "dvcr: booting {} with {cpus} processors and {} MiB; Ctrl-A X ends it",
            self.name,
            memory >> 20
        );
        let status = self.wait(command).await?;
        drop(seed);
        if status.success() {
            return Ok(());
        }
        // Where a machine is one itself, its processors may not let others be made of them.
        let hint = if self.accel == Accelerator::Tcg {
            ""
        } else {
            "; --accel tcg does without this machine's processors"
        };
        Err(Failure::Failed(format!("{} has ended: {status}{hint}", self.qemu.display())))
    }

    /// Runs it until it ends, or somebody asks this command to stop.
    async fn wait(&self, mut command: Command) -> Result<ExitStatus, Failure> {
        command.stdin(Stdio::inherit()).kill_on_drop(true);
        let program = self.qemu.display();
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::Failed(format!(
                "{program} is not installed: Debian has it in qemu-system-x86; --qemu names another one"
            )),
            _ => Failure::because(program, &error),
        })?;
        let ended = tokio::select! {
            ended = child.wait() => ended,
            () = told_to_stop() => {
                ask_to_end(&child);
                // It makes the terminal what it was, and writes what it has not written.
                let _ = timeout(PATIENCE, child.wait()).await;
                return Err(Failure::Interrupted("stopped".to_owned()));
            }
        };
        ended.map_err(|error| Failure::because(self.qemu.display(), &error))
    }

    /// Where the server keeps volumes.
    fn volumes(&self) -> Result<PathBuf, Failure> {
        let flags: Dict =
            self.data.iter().map(|data| ("data".to_owned(), data.display().to_string().into())).collect();
        let config = Config::load(self.config.as_deref(), Serialized::globals(flags))
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let state = config.state_directory().ok_or_else(|| {
            Failure::Usage(
                "the server keeps its data in a bucket, and no volumes here: --data names its directory"
                    .to_owned(),
            )
        })?;
        Ok(state.join("volumes"))
    }

    /// A disk of the machine, if it can be had.
    fn attach(&self, wanted: &AttachedDisk, found: Option<VmDisk>, volumes: &Path) -> Result<Disk, Failure> {
        let name = wanted.name().unwrap_or_default();
        let no = |why: String| Err(Failure::Failed(format!("VMDisk {}/{name} {why}", self.namespace)));
        let Some(disk) = found else { return no("does not exist".to_owned()) };
        // One that is to be deleted waits for its machine to let go of it, and is good until then.
        let is_ready = disk.is_ready();
        let status = disk.status.unwrap_or_default();
        if !is_ready {
            let phase = status.phase.unwrap_or_default().as_str();
            return no(format!(
                "is {phase}: `kubectl wait --for=jsonpath={{.status.phase}}=Ready vmdisk/{name}` waits for it"
            ));
        }
        let claim = status.target.and_then(|target| target.persistent_volume_claim_name).unwrap_or_default();
        let path = volume_path(volumes, &self.namespace, &claim);
        // Absolute: the command that --print shows may be run in another folder.
        let Ok(path) = path.canonicalize() else {
            return no(format!(
                "has no file {}: --data names the data directory of the server, which has to be on this machine",
                path.display()
            ));
        };
        Ok(Disk { path, bus: wanted.bus().map(str::to_owned), optical: disk.spec.optical })
    }

    /// Processors and bytes of memory.
    fn size(&self, instance: &VmInstance) -> Result<(u64, u64), Failure> {
        if let (Some(cpus), Some(memory)) = (self.cpus, self.memory) {
            return Ok((cpus, memory.0));
        }
        let (cpus, memory) = machine::size_of(&instance.spec)
            .map_err(|why| Failure::Refused(format!("{why}: give --cpus and --memory")))?;
        Ok((self.cpus.unwrap_or(cpus), self.memory.map_or(memory, |size| size.0)))
    }
}

/// Sends SIGTERM.
fn ask_to_end(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Where it has ended by itself there is nobody to ask.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// A command as a shell takes it.
fn shown(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let is_plain = !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=,.:/+".contains(&byte));
        if is_plain { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
