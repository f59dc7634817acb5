//! [`FileSource`]: a file or a block device.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{Opened, QUEUE};
use crate::importer::SourceError;

/// Bytes of one read.
const PIECE: usize = 512 << 10;

/// A file or a block device.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    /// What it was when it was opened first.
    version: Option<Version>,
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    length: u64,
    modified: Option<SystemTime>,
    device: u64,
    inode: u64,
}

impl FileSource {
    /// The file at `path`; nothing is opened yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), version: None }
    }

    pub(super) fn file_name(&self) -> Option<String> {
        // What stands for standard input has no name.
        let is_named = !self.path.starts_with("/dev") && !self.path.starts_with("/proc");
        is_named.then(|| self.path.file_name()?.to_str().map(str::to_owned))?
    }

    pub(super) async fn open(&mut self) -> Result<Opened, SourceError> {
        let path = self.path.clone();
        let (file, version) = blocking(move || open(&path)).await?;
        if self.version.as_ref().is_some_and(|known| *known != version) {
            return Err(changed(&self.path));
        }
        let (sender, pieces) = mpsc::channel(QUEUE);
        let (path, read) = (self.path.clone(), version.clone());
        spawn_blocking(move || {
            if let Err(error) = read_all(file, &path, &read, &sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        let opened = Opened {
            length: Some(version.length),
            modified: version.modified,
            identity: format!("{} {version:?}", self.path.display()),
            pieces,
            reading: None,
        };
        self.version = Some(version);
        Ok(opened)
    }

    /// Takes whatever the file is next for the right one.
    pub(super) fn renew(&mut self) {
        self.version = None;
    }

    pub(super) async fn read_at(&self, range: Range<u64>) -> Result<Option<Bytes>, SourceError> {
        let path = self.path.clone();
        blocking(move || {
            let read = || {
                let length = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
                let mut bytes = BytesMut::zeroed(length);
                File::open(&path)?.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.freeze())
            };
            read().map(Some).map_err(|error| SourceError::File { path: path.clone(), error })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    spawn_blocking(work).await.map_err(|error| SourceError::Broken(error.to_string()))?
}

fn open(path: &Path) -> Result<(File, Version), SourceError> {
    let failed = |error| SourceError::File { path: path.to_owned(), error };
    // Before it is opened: opening a pipe waits for a writer.
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    let other = |kind| SourceError::NotAFile { path: path.to_owned(), kind };
    if kind.is_dir() {
        return Err(other("a folder"));
    }
    if kind.is_fifo() {
        return Err(other("a pipe (use - and standard input)"));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(other("a character device or a socket"));
    }
    let mut file = File::open(path).map_err(failed)?;
    let version = Version::of(&mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok((file, version))
}

fn changed(path: &Path) -> SourceError {
    SourceError::Changed { source_name: path.display().to_string() }
}

impl Version {
    /// What a file is now; moves to its end.
    fn of(file: &mut File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        // The metadata of a device has no length, but its end can be sought.
        let length = file.seek(SeekFrom::End(0))?;
        let modified = metadata.file_type().is_file().then(|| metadata.modified().ok()).flatten();
        Ok(Self { length, modified, device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Sends all bytes, and then makes sure that nobody wrote meanwhile.
fn read_all(
    mut file: File,
    path: &Path,
    version: &Version,
    pieces: &mpsc::Sender<Result<Bytes, SourceError>>,
) -> Result<(), SourceError> {
    let failed = |error| SourceError::File { path: path.to_owned(), error };
    let mut left = version.length;
    while left > 0 {
        let wanted = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let mut piece = BytesMut::zeroed(wanted);
        match file.read_exact(&mut piece) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(changed(path)),
            read => read.map_err(failed)?,
        }
        left -= wanted as u64;
        if pieces.blocking_send(Ok(piece.freeze())).is_err() {
            return Ok(());
        }
    }
    if Version::of(&mut file).map_err(failed)? == *version { Ok(()) } else { Err(changed(path)) }
}
