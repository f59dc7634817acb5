//! [`Destination`]: where a disk goes, and when it is there.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use uuid::Uuid;

use super::ExportError;

/// Where a disk goes.
pub enum Destination {
    /// A file that is new or, with `force`, replaced.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether there may be one.
        force: bool,
    },
    /// A block device, of which the first bytes are written.
    Device(PathBuf),
    /// A named pipe or a character device, which takes a stream.
    Special(PathBuf),
    /// A stream, such as standard output.
    Stream(Box<dyn Write + Send>),
}

impl Destination {
    /// What is at `path`, or will be.
    #[must_use]
    pub fn at(path: PathBuf, force: bool) -> Self {
        let kind = std::fs::metadata(&path).map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_block_device() => Self::Device(path),
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => Self::Special(path),
            _ => Self::File { path, force },
        }
    }

    /// Fails early where a disk cannot go.
    pub(super) fn check(&self) -> Result<(), ExportError> {
        let Self::File { path, force } = self else { return Ok(()) };
        match path.metadata() {
            Ok(metadata) if !metadata.is_file() => Err(ExportError::NotAFile { path: path.clone() }),
            Ok(_) if !force => Err(ExportError::Exists { path: path.clone() }),
            // A link that leads nowhere is a name that is taken.
            Err(_) if !force && path.symlink_metadata().is_ok() => {
                Err(ExportError::Exists { path: path.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A file that is not there yet: it has a name of its own until it is complete. Dropped before, it is gone.
#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) file: File,
    part: PathBuf,
}

impl PartFile {
    /// The part of what will be `path`, beside it, so that it can take the name without being copied. It may be that
    /// of a process that was killed.
    pub(super) fn beside(path: &Path, suffix: &str) -> Result<Self, ExportError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".{name}.dvcr-{suffix}"));
        let failed = |error| ExportError::Write { path: part.clone(), error };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags(OFlags::NOFOLLOW))
            .open(&part)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        // Only what an earlier pull left is ours to overwrite.
        if file.try_lock().is_err() || !metadata.is_file() || metadata.nlink() != 1 {
            return Err(ExportError::Busy { path: part });
        }
        file.set_len(0).map_err(failed)?;
        Ok(Self { file, part })
    }

    /// The part of what is converted to be `path`: beside it, if there is room for `bytes` in all, or else among temporary files. A
    /// volume is as large as its disk, and need not have room for the disk twice.
    pub(super) fn to_convert(path: &Path, bytes: u64) -> Result<Self, ExportError> {
        let part = Self::beside(path, "part")?;
        let free = rustix::fs::fstatvfs(&part.file).map_err(|error| part.failed(error.into()))?;
        if free.f_bavail.saturating_mul(free.f_frsize) >= bytes { Ok(part) } else { Self::temporary() }
    }

    /// A file in the folder for temporary files (`TMPDIR`) that nobody else can open.
    pub(super) fn temporary() -> Result<Self, ExportError> {
        let part = std::env::temp_dir().join(format!("dvcr-{}", Uuid::now_v7()));
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&part);
        let file = file.map_err(|error| ExportError::Write { path: part.clone(), error })?;
        Ok(Self { file, part })
    }

    pub(super) fn path(&self) -> &Path {
        &self.part
    }

    /// It cannot be written.
    pub(super) fn failed(&self, error: io::Error) -> ExportError {
        ExportError::Write { path: self.part.clone(), error }
    }

    /// Gives the file its name, durably.
    pub(super) fn publish(self, path: &Path, force: bool) -> Result<(), ExportError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => ExportError::Exists { path: path.to_owned() },
            _ => ExportError::Write { path: path.to_owned(), error },
        };
        self.file.sync_all().map_err(failed)?;
        if force {
            std::fs::rename(&self.part, path).map_err(failed)?;
        } else {
            match renameat_with(CWD, &self.part, CWD, path, RenameFlags::NOREPLACE) {
                // A file system that cannot tell; that there is none was checked before.
                Err(rustix::io::Errno::INVAL) => std::fs::rename(&self.part, path).map_err(failed)?,
                other => other.map_err(|error| failed(error.into()))?,
            }
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // Published, it is not there any more.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// Opens a device that nobody else uses, and that holds `needs` bytes.
pub(super) fn open_device(path: &Path, needs: u64) -> Result<File, ExportError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::ResourceBusy => ExportError::Busy { path: path.to_owned() },
        _ => ExportError::Write { path: path.to_owned(), error },
    };
    // On a block device, exclusive means that it is neither mounted nor a part of another device.
    let mut options = File::options();
    options.read(true).write(true).custom_flags(flags(OFlags::EXCL));
    let mut device = options.open(path).map_err(failed)?;
    let has = device.seek(SeekFrom::End(0)).map_err(failed)?;
    if has < needs {
        return Err(ExportError::TooSmall { path: path.to_owned(), has, needs });
    }
    Ok(device)
}

/// Flags as the standard library takes them.
fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}
