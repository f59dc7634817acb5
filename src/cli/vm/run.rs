//! `dvcr vm run`: a VMInstance of `dvcr serve`, booted on this machine.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::str::FromStr;

use clap::Args;
use figment::providers::Serialized;
use figment::value::Dict;
use kube::Api;
use tokio::process::Command;

use super::qemu::{Accelerator, Disk, Machine};
use super::seed;
use crate::cli::api_server::client_of;
use crate::cli::size::Size;
use crate::cli::{Failure, run_to_end};
use crate::config::Config;
use crate::controller::crd::{AttachedDisk, Phase, VmDisk, VmInstance};
use crate::controller::{machine, volume_path};

/// Boot a VMInstance from its disks, and have its serial console here.
///
/// The disks are those of the server's data directory: this runs where the server runs. What the machine writes stays, unless
/// --snapshot is given. It is as large as its instance type says, or as --cpus and --memory do, and cloud-init in it finds
/// cloudInit and sshKeys. Ctrl-A X ends it at once, as if the power went; `poweroff` within it ends it well.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr vm run web
  dvcr vm run web --namespace shop --forward 8080:80 --memory 1Gi
  dvcr vm run windows --firmware /usr/share/OVMF/OVMF_CODE.fd --display gtk
  dvcr vm run web --print                    the command of qemu, to be changed")]
pub(super) struct Run {
    /// The VMInstance.
    #[arg(value_name = "NAME")]
    name: String,
    /// Its namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// The API server of `dvcr serve`.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5000", env = "DVCR_SERVER")]
    server: String,
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
        run_to_end(self.boot())
    }

    async fn boot(self) -> Result<(), Failure> {
        let client = client_of(&self.server)?;
        let instances: Api<VmInstance> = Api::namespaced(client.clone(), &self.namespace);
        let failed =
            |error: kube::Error| Failure::because(format!("the API server at {}", self.server), &error);
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
        let seed = seed::write(&instance)?;
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
            seed: seed.as_ref().map(|seed| if self.print { "SEED".into() } else { seed.path().to_owned() }),
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

    /// Runs it until it ends; it does not outlive this command.
    async fn wait(&self, mut command: Command) -> Result<ExitStatus, Failure> {
        command.stdin(Stdio::inherit()).kill_on_drop(true);
        let program = self.qemu.display();
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::Failed(format!(
                "{program} is not installed: Debian has it in qemu-system-x86; --qemu names another one"
            )),
            _ => Failure::because(program, &error),
        })?;
        child.wait().await.map_err(|error| Failure::because(self.qemu.display(), &error))
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
        let status = disk.status.unwrap_or_default();
        if status.phase != Some(Phase::Ready) {
            let phase = status.phase.unwrap_or_default().as_str();
            return no(format!(
                "is {phase}: `kubectl wait --for=jsonpath={{.status.phase}}=Ready vmdisk/{name}` waits for it"
            ));
        }
        let claim = status.target.and_then(|target| target.persistent_volume_claim_name).unwrap_or_default();
        let path = volume_path(volumes, &self.namespace, &claim);
        // As qemu has another folder to begin from in the eyes of whoever copies the command.
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
