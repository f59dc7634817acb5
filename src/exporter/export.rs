//! [`Exporter`]: takes a disk out of its image.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::destination::{PartFile, open_device};
use super::{Destination, ExportError, volume};
use crate::artifact::{ArtifactError, DiskFile, DiskStream, Fetch, RemoteImage, unlimited};
use crate::disk::{Depth, Disk, Format, Probe, Refusal};
use crate::qemu_img::{QemuImgError, convert, is_possible};
use crate::sparse::{Ground, SparseWriter};

/// How a disk is taken out.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// The format that it must have then; by default that which it has.
    pub format: Option<Format>,
    /// How its layers are fetched.
    pub fetch: Fetch,
    /// Bytes that a raw file is to have at least: what is missing is a hole behind the disk.
    pub size: Option<u64>,
}

/// A disk that came out.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Its file in the image.
    pub file: DiskFile,
    /// What was in the image, if it is a disk that we know.
    pub disk: Result<Disk, Refusal>,
    /// The format that came out.
    pub format: Format,
}

/// Takes one disk out.
#[derive(Debug, Default)]
pub struct Exporter {
    written: Arc<AtomicU64>,
    total: Arc<AtomicU64>,
}

/// What a writer found on the way.
struct Written {
    disk: Result<Disk, Refusal>,
}

impl Exporter {
    /// Bytes of the disk's file that were written, and all of them once they are known.
    #[must_use]
    pub fn progress(&self) -> (u64, Option<u64>) {
        let total = self.total.load(Ordering::Relaxed);
        (self.written.load(Ordering::Relaxed), (total > 0).then_some(total))
    }

    /// Takes the disk out of `image`. The counters of [`Exporter::progress`] follow.
    pub async fn export(
        &self,
        image: &RemoteImage,
        destination: Destination,
        options: ExportOptions,
    ) -> Result<Exported, ExportError> {
        destination.check()?;
        // By content: what a label says is not what a machine boots.
        let found = match options.format {
            None => None,
            Some(format) => Some((image.probe().await?.disk?, format)),
        };
        let conversion = found.filter(|(from, to)| from.format.qemu_name() != to.qemu_name());
        if let Some((from, to)) = conversion {
            is_possible(from.format, to).await?;
        }
        let stream = image.disk(unlimited(), options.fetch).await?;
        self.total.store(stream.file.size, Ordering::Relaxed);
        let file = stream.file.clone();
        let written = match (destination, conversion) {
            (Destination::Stream(_) | Destination::Special(_), Some(_)) => {
                return Err(ExportError::ConvertStream);
            }
            (Destination::Stream(to), None) => self.to_stream(stream, move || Ok(to)).await?,
            (Destination::Special(path), None) => {
                // A pipe opens when somebody reads it.
                let open = move || match File::options().write(true).open(&path) {
                    Ok(file) => Ok(Box::new(file) as Box<dyn Write + Send>),
                    Err(error) => Err(ExportError::Write { path, error }),
                };
                self.to_stream(stream, open).await?
            }
            (Destination::File { path, force }, None) => {
                let part = PartFile::beside(&path, "part")?;
                let (written, part) = self.to_part(stream, part).await?;
                if let Some((promised, _)) = found {
                    is_safe(&written, promised.format)?;
                }
                let part = grow(part, options.size).await?;
                publish(part, path, force).await?;
                written
            }
            (Destination::Device(path), None) => self.to_device(stream, path).await?,
            (Destination::File { path, force }, Some((from, to))) => {
                let part = PartFile::to_convert(&path, stream.file.size.saturating_add(from.virtual_size))?;
                let (written, part) = self.to_part(stream, part).await?;
                is_safe(&written, from.format)?;
                let converted = PartFile::beside(&path, "converted")?;
                convert(from.format, part.path(), to, converted.path(), false).await?;
                let converted = grow(converted, options.size.filter(|_| to == Format::Raw)).await?;
                publish(converted, path, force).await?;
                written
            }
            (Destination::Device(path), Some((from, to))) => {
                let device = path.clone();
                drop(blocking(move || open_device(&device, from.virtual_size)).await?);
                let part = PartFile::temporary()?;
                let (written, part) = self.to_part(stream, part).await?;
                is_safe(&written, from.format)?;
                convert(from.format, part.path(), to, &path, true).await?;
                // Qemu-img leaves it to the system when that reaches the device, and an error then would be nobody's.
                blocking(move || {
                    let device = File::options().write(true).open(&path);
                    device
                        .and_then(|device| device.sync_all())
                        .map_err(|error| ExportError::Write { path, error })
                })
                .await?;
                written
            }
        };
        let stored = written.disk.as_ref().map_or(Format::Raw, |disk| disk.format);
        let format = conversion.map_or(stored, |(_, to)| to);
        Ok(Exported { file, disk: written.disk, format })
    }

    async fn to_part(&self, stream: DiskStream, part: PartFile) -> Result<(Written, PartFile), ExportError> {
        let size = stream.file.size;
        let counter = Arc::clone(&self.written);
        blocking(move || {
            let failed = |error| ExportError::Write { path: part.path().to_owned(), error };
            part.file.set_len(size).map_err(failed)?;
            let written = to_file(stream, &part.file, Ground::Zeros, &counter, failed)?;
            Ok((written, part))
        })
        .await
    }

    async fn to_device(&self, stream: DiskStream, path: PathBuf) -> Result<Written, ExportError> {
        let counter = Arc::clone(&self.written);
        blocking(move || {
            let failed = |error| ExportError::Write { path: path.clone(), error };
            let device = open_device(&path, stream.file.size)?;
            let written = to_file(stream, &device, Ground::Unknown, &counter, failed)?;
            device.sync_all().map_err(failed)?;
            Ok(written)
        })
        .await
    }

    async fn to_stream(
        &self,
        stream: DiskStream,
        open: impl FnOnce() -> Result<Box<dyn Write + Send>, ExportError> + Send + 'static,
    ) -> Result<Written, ExportError> {
        let counter = Arc::clone(&self.written);
        blocking(move || {
            let failed = |error| ExportError::Write { path: "standard output".into(), error };
            let mut to = open()?;
            let mut probe = probe(&stream.file);
            let mut content = stream.content;
            while let Some(piece) = next(&mut content, &mut probe)? {
                to.write_all(&piece).map_err(failed)?;
                counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            to.flush().map_err(failed)?;
            Ok(Written { disk: probe.finish() })
        })
        .await
    }
}

/// A probe that looks and lets pass.
fn probe(file: &DiskFile) -> Probe {
    Probe::new(unlimited(), Depth::Header, Some(file.size))
}

/// The next piece, which the probe has seen. What it refuses comes out all the same, unless it is converted.
fn next(
    content: &mut mpsc::Receiver<Result<Bytes, ArtifactError>>,
    probe: &mut Probe,
) -> Result<Option<Bytes>, ExportError> {
    let Some(piece) = content.blocking_recv().transpose()? else { return Ok(None) };
    let _ = probe.update(&piece);
    Ok(Some(piece))
}

fn to_file(
    stream: DiskStream,
    file: &File,
    ground: Ground,
    counter: &AtomicU64,
    failed: impl Fn(std::io::Error) -> ExportError,
) -> Result<Written, ExportError> {
    let mut probe = probe(&stream.file);
    let mut content = stream.content;
    let mut writer = SparseWriter::new(file, ground);
    while let Some(piece) = next(&mut content, &mut probe)? {
        writer.write(&piece).map_err(&failed)?;
        counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    if writer.finish().map_err(&failed)? != stream.file.size {
        return Err(ExportError::Broken("the disk ended early".to_owned()));
    }
    Ok(Written { disk: probe.finish() })
}

/// Makes a raw file that is shorter as long as it is to be.
async fn grow(part: PartFile, size: Option<u64>) -> Result<PartFile, ExportError> {
    let Some(size) = size else { return Ok(part) };
    blocking(move || {
        // By its name: qemu-img may have made another file of it.
        volume::grow(part.path(), size).map_err(|error| part.failed(error))?;
        Ok(part)
    })
    .await
}

/// Refuses to hand to qemu-img what is no whole disk, or another than was promised.
fn is_safe(written: &Written, promised: Format) -> Result<(), ExportError> {
    let disk = written.disk.clone()?;
    if disk.format == promised {
        return Ok(());
    }
    Err(QemuImgError::Failed(format!("the image says that it is {promised}, and it is {}", disk.format))
        .into())
}

pub(super) async fn publish(part: PartFile, path: PathBuf, force: bool) -> Result<(), ExportError> {
    blocking(move || part.publish(&path, force)).await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    spawn_blocking(work).await.map_err(|error| ExportError::Broken(error.to_string()))?
}
