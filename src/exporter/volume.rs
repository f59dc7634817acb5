//! Files of volumes that no image is written into: empty ones, and copies of others.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::destination::{PartFile, open_device};
use super::export::{blocking, publish};
use super::{Destination, ExportError};
use crate::sparse::{Ground, SparseWriter};

/// How much is read at once.
const PIECE: usize = 1 << 20;

/// Makes an empty disk of `size` bytes, all of it a hole. A file that is there is replaced.
pub async fn make_blank(path: PathBuf, size: u64) -> Result<(), ExportError> {
    let part = PartFile::beside(&path, "part")?;
    let part = blocking(move || {
        part.file.set_len(size).map_err(|error| part.failed(error))?;
        Ok(part)
    })
    .await?;
    publish(part, path, true).await
}

/// What a disk that is not there means to whoever copies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is lost, or somewhere else.
    IsAnError,
    /// It is empty: KubeVirt makes the file of an empty disk when its machine is started for the first time.
    IsEmpty,
}

/// Makes a disk of what another one, a file or a device, holds, and of `size` bytes, which are not less than it has. What a device has
/// beyond them is its own rounding.
///
/// No byte is copied where the file system lets two files share them (btrfs, XFS); elsewhere holes stay holes.
pub async fn copy_volume(
    from: PathBuf,
    to: Destination,
    size: Option<u64>,
    missing: Missing,
) -> Result<(), ExportError> {
    to.check()?;
    match to {
        Destination::File { path, force } => {
            let part = PartFile::beside(&path, "part")?;
            let part = blocking(move || copy_to_file(&from, part, size, missing)).await?;
            publish(part, path, force).await
        }
        Destination::Device(path) => blocking(move || copy_to_device(&from, &path, size, missing)).await,
        Destination::Special(path) => Err(ExportError::NotAFile { path }),
        Destination::Stream(_) => Err(ExportError::ConvertStream),
    }
}

/// The disk, if there is one, and how many bytes of it are copied.
fn open(path: &Path, size: Option<u64>, missing: Missing) -> Result<Option<(File, u64)>, ExportError> {
    let failed = |error| ExportError::Write { path: path.to_owned(), error };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::IsEmpty => {
            return Ok(None);
        }
        file => file.map_err(failed)?,
    };
    // A device says its length only so.
    let length = file.seek(io::SeekFrom::End(0)).map_err(failed)?;
    Ok(Some((file, size.map_or(length, |size| length.min(size)))))
}

fn copy_to_file(
    from: &Path,
    part: PartFile,
    size: Option<u64>,
    missing: Missing,
) -> Result<PartFile, ExportError> {
    let mut length = 0;
    if let Some((source, part_of_it)) = open(from, size, missing)? {
        length = part_of_it;
        if ioctl_ficlone(&part.file, &source).is_err() {
            part.file.set_len(length).map_err(|error| part.failed(error))?;
            // A device knows of no holes.
            let is_file = source.metadata().is_ok_and(|metadata| metadata.is_file());
            let copied = if is_file {
                copy_data(&source, &part.file, length)
            } else {
                copy_all(&source, &part.file, length, Ground::Zeros)
            };
            copied.map_err(|error| part.failed(error))?;
        }
    }
    part.file.set_len(size.unwrap_or(length)).map_err(|error| part.failed(error))?;
    Ok(part)
}

fn copy_to_device(from: &Path, path: &Path, size: Option<u64>, missing: Missing) -> Result<(), ExportError> {
    let found = open(from, size, missing)?;
    let length = found.as_ref().map_or(0, |(_, length)| *length);
    let device = open_device(path, size.unwrap_or(length))?;
    let Some((source, _)) = found else { return Ok(()) };
    let failed = |error| ExportError::Write { path: path.to_owned(), error };
    copy_all(&source, &device, length, Ground::Unknown).and_then(|()| device.sync_all()).map_err(failed)
}

/// Copies everything, and leaves out what is zero.
fn copy_all(from: &File, to: &File, length: u64, ground: Ground) -> io::Result<()> {
    let mut writer = SparseWriter::new(to, ground);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < length {
        let most = usize::try_from(length - at).unwrap_or(PIECE).min(PIECE);
        let read = from.read_at(&mut piece[..most], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        writer.write(&piece[..read])?;
        at += read as u64;
    }
    writer.finish().map(drop)
}

/// Makes a disk larger, durably; one that is large enough stays as it is.
pub async fn grow_volume(path: PathBuf, size: u64) -> Result<(), ExportError> {
    blocking(move || grow(&path, size).map_err(|error| ExportError::Write { path: path.clone(), error }))
        .await
}

/// The same, on the thread that asks.
pub(super) fn grow(path: &Path, size: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if file.metadata()?.size() < size {
        file.set_len(size)?;
    }
    file.sync_all()
}

/// Copies what is no hole.
fn copy_data(from: &File, to: &File, length: u64) -> io::Result<()> {
    let mut end = 0;
    loop {
        let mut start = match seek(from, SeekFrom::Data(end)) {
            Ok(start) if start >= length => return Ok(()),
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        end = seek(from, SeekFrom::Hole(start))?.min(length);
        while start < end {
            let left = usize::try_from(end - start).unwrap_or(usize::MAX);
            let (mut read, mut written) = (start, start);
            let copied = match copy_file_range(from, Some(&mut read), to, Some(&mut written), left) {
                Ok(copied) => copied,
                // Two file systems, or one that cannot.
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP) => copy_piece(from, to, start, left)?,
                Err(error) => return Err(error.into()),
            };
            if copied == 0 {
                // Somebody has made it shorter meanwhile.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            start += copied as u64;
        }
    }
}

fn copy_piece(from: &File, to: &File, at: u64, most: usize) -> io::Result<usize> {
    let mut piece = vec![0; most.min(PIECE)];
    let read = from.read_at(&mut piece, at)?;
    to.write_all_at(&piece[..read], at)?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn an_empty_disk_takes_no_space() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        make_blank(path.clone(), 10 << 30).await.unwrap();
        let made = path.metadata().unwrap();
        assert_eq!(made.size(), 10 << 30);
        assert!(made.blocks() < 100, "{}", made.blocks());
    }

    #[tokio::test]
    async fn a_copy_has_the_same_data_and_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["a", "b"].map(|name| folder.path().join(name));
        let source = File::create(&from).unwrap();
        source.set_len(64 * MIB).unwrap();
        source.write_all_at(&[7; 5000], 3 * MIB).unwrap();
        source.write_all_at(&[9; 5000], 40 * MIB).unwrap();
        let to_new = Destination::at(to.clone(), false);
        copy_volume(from.clone(), to_new, Some(65 * MIB), Missing::IsAnError).await.unwrap();
        let mut expected = std::fs::read(&from).unwrap();
        expected.resize(usize::try_from(65 * MIB).unwrap(), 0);
        assert!(std::fs::read(&to).unwrap() == expected);
        assert!(to.metadata().unwrap().blocks() * 512 < 2 * MIB);
        // And nothing that is written into one of them is seen in the other.
        File::options().write(true).open(&to).unwrap().write_all_at(&[1; 10], 3 * MIB).unwrap();
        assert_eq!(std::fs::read(&from).unwrap()[usize::try_from(3 * MIB).unwrap()], 7);
    }

    #[tokio::test]
    async fn a_disk_that_is_not_there_is_an_error_or_empty() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["a", "b"].map(|name| folder.path().join(name));
        let copy = |missing| copy_volume(from.clone(), Destination::at(to.clone(), true), Some(MIB), missing);
        copy(Missing::IsAnError).await.unwrap_err();
        assert!(!to.exists());
        copy(Missing::IsEmpty).await.unwrap();
        assert_eq!(to.metadata().unwrap().size(), MIB);
    }

    #[tokio::test]
    async fn what_a_disk_has_beyond_its_size_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["a", "b"].map(|name| folder.path().join(name));
        let source = File::create(&from).unwrap();
        source.set_len(8 * MIB).unwrap();
        source.write_all_at(&[7; 5000], 7 * MIB).unwrap();
        source.write_all_at(&[9; 5000], MIB).unwrap();
        copy_volume(from.clone(), Destination::at(to.clone(), true), Some(2 * MIB), Missing::IsAnError)
            .await
            .unwrap();
        assert_eq!(
            std::fs::read(&to).unwrap()[..],
            std::fs::read(&from).unwrap()[..usize::try_from(2 * MIB).unwrap()]
        );
    }

    #[tokio::test]
    async fn a_disk_grows_and_never_shrinks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        make_blank(path.clone(), MIB).await.unwrap();
        for (asked, then) in [(2 * MIB, 2 * MIB), (MIB, 2 * MIB)] {
            grow_volume(path.clone(), asked).await.unwrap();
            assert_eq!(path.metadata().unwrap().size(), then);
        }
    }
}
