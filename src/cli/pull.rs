//! `dvcr pull`: a disk out of a registry.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::output::{Format as OutputFormat, bytes, fields};
use super::progress::{ProgressArgs, Snapshot};
use super::registry::RegistryArgs;
use super::size::Size;
use super::{Failure, run_to_end, target_format};
use crate::artifact::{Base, Fetch, Platform, RemoteImage};
use crate::client::Connections;
use crate::disk::Format;
use crate::exporter::{Destination, ExportError, ExportOptions, Exporter};
use crate::importer::ratio;
use crate::oci::ImageReference;

/// Pull a disk out of a registry, without the image around it.
///
/// The image is verified while it is read, and goes on where a connection broke. Zeros become holes in a file, and
/// discards on a block device. A file has its name only when it is complete and right.
///
/// Exit codes: 0 pulled; 1 failed, trying again may help; 2 asked wrongly; 3 refused: the image is damaged or no disk.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dvcr pull 127.0.0.1:5000/disks/noble:1                             into the image's own file name, here
  dvcr pull 127.0.0.1:5000/disks/noble:1 -o noble.qcow2
  dvcr pull 127.0.0.1:5000/disks/noble:1 -o noble.raw --format raw    converted by qemu-img
  dvcr pull 127.0.0.1:5000/disks/noble:1 -o /dev/vg0/noble --format raw
  dvcr pull 127.0.0.1:5000/disks/noble:2 -o noble-2.qcow2 --base noble-1.qcow2     what is new in it
  dvcr pull 127.0.0.1:5000/disks/noble:1 -o - | sha256sum")]
pub(super) struct Pull {
    /// The image: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
    #[arg(value_name = "REFERENCE")]
    image: ImageReference,
    /// Where the disk goes: a file, a block device, or - for standard output [default: the disk's file name].
    #[arg(short = 'o', long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Convert to this format with qemu-img: raw or qcow2.
    #[arg(long, value_name = "FORMAT", value_parser = target_format)]
    format: Option<Format>,
    /// Make a raw file this large at least, such as 20Gi: the disk grows by zeros at its end.
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Replace a file that is there.
    #[arg(short, long)]
    force: bool,
    /// A file that has much of the disk in it, such as the version before: from a registry of DVCR only the rest is fetched.
    /// A file that is replaced is one by itself.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Ranges that are fetched at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    connections: u8,
    /// Which image of an index, OS/ARCHITECTURE.
    #[arg(long)]
    platform: Option<Platform>,
    /// How the result is printed on standard output, or on standard error if the disk goes there.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    output: OutputFormat,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Serialize)]
struct Outcome {
    reference: String,
    digest: String,
    layer: Option<String>,
    format: String,
    virtual_size: Option<u64>,
    size: u64,
    file: String,
    path: String,
    /// Bytes that the base did not have, where there was one that could be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched: Option<u64>,
    seconds: f64,
}

impl Pull {
    pub(super) fn run(self) -> Result<(), Failure> {
        run_to_end(self.pull())
    }

    async fn pull(self) -> Result<(), Failure> {
        if let Some(path) =
            self.to.as_ref().filter(|path| ["json", "text"].iter().any(|name| path.as_os_str() == *name))
        {
            let name = path.display();
            return Err(Failure::Usage(format!(
                "-o names a file here: did you mean --output {name}, or -o ./{name}?"
            )));
        }
        let client = self.registry.default_client()?;
        let began = Instant::now();
        let image = RemoteImage::resolve(&client, &self.image, self.platform.as_ref())
            .await
            .map_err(|error| failure(&error.into()))?;
        let path = match &self.to {
            Some(path) => path.clone(),
            None => PathBuf::from(self.own_name(&image).await?),
        };
        let is_stream = path.as_os_str() == "-";
        let destination = if is_stream {
            Destination::Stream(Box::new(std::io::stdout()))
        } else {
            Destination::at(path.clone(), self.force)
        };
        let base = self.base_of(&path)?;
        let connections = Connections(usize::from(self.connections));
        let fetch = Fetch { connections, base: base.clone() };
        let options = ExportOptions { format: self.format, fetch, size: self.size.map(|size| size.0) };
        let exporter = Exporter::default();
        let look = || {
            let (done, total) = exporter.progress();
            let fraction = total.map(|total| ratio(done, total));
            Snapshot { phase: "pulling", done, total, fraction, in_all: done }
        };
        let work = exporter.export(&image, destination, options);
        let pulled = self.progress.show(look, work).await.map_err(|error| failure(&error))?;
        let outcome = Outcome {
            reference: self.image.to_string(),
            digest: image.digest.to_string(),
            layer: image.layers.last().map(|layer| layer.digest.to_string()),
            format: pulled.format.to_string(),
            virtual_size: pulled.disk.as_ref().ok().map(|disk| disk.virtual_size),
            size: pulled.file.size,
            file: format!("disk/{}", pulled.file.name),
            path: path.display().to_string(),
            fetched: base.as_ref().and_then(Base::fetched),
            seconds: (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        };
        let text = || {
            fields(&[
                ("Image", format!("{} ({})", outcome.reference, outcome.digest)),
                ("Disk", format!("{}, {}", outcome.file, bytes(outcome.size))),
                ("Written", format!("{}, {}", outcome.path, outcome.format)),
                ("Fetched", outcome.fetched.map_or_else(|| "all of it".to_owned(), bytes)),
            ])
        };
        if is_stream { self.output.print_aside(&outcome, text) } else { self.output.print(&outcome, text) }
    }

    /// What has much of the disk in it already, if there is anything.
    fn base_of(&self, target: &Path) -> Result<Option<Base>, Failure> {
        let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
        match &self.base {
            Some(base) if is_file(base) => Ok(Some(Base::new(base.clone()))),
            Some(base) => Err(Failure::Usage(format!("--base {}: there is no such file", base.display()))),
            None => Ok((self.force && is_file(target)).then(|| Base::by_chance(target.to_owned()))),
        }
    }

    /// The disk's own file name, which an image's author may have made a path.
    async fn own_name(&self, image: &RemoteImage) -> Result<String, Failure> {
        let disk = image.inspect().await.map_err(|error| failure(&error.into()))?;
        let name = disk.file.name;
        if name.starts_with('.') || name.contains(['/', '\\', '\0']) || name == "-" {
            return Err(Failure::Refused(format!(
                "the disk's file is called {name:?}: say with -o where it goes"
            )));
        }
        Ok(match self.format.filter(|format| !name.ends_with(&format!(".{format}"))) {
            Some(format) => format!("{}.{format}", name.rsplit_once('.').map_or(&*name, |(stem, _)| stem)),
            None => name,
        })
    }
}

fn failure(error: &ExportError) -> Failure {
    Failure::judged(error.is_refusal(), error)
}
