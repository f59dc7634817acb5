//! Data files: written in place under their final name, appended to across requests, never renamed.
//!
//! An unfinished file needs no other name, because nothing refers to it before it is sealed.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::reserve::Reserve;
use super::sync::Directories;
use super::{blocking, failed, sync};
use crate::{DataWriter, Error, Key, Paused, Result, WriterState};

/// Appends to one data file. All file operations run on the blocking threads.
#[derive(Debug)]
pub(super) struct FileWriter {
    file: Arc<File>,
    path: PathBuf,
    key: Key,
    length: u64,
    /// Bytes that the last sync covered; `None` until the directory entry was synced too.
    synced: Option<u64>,
    reserve: Arc<Reserve>,
}

impl FileWriter {
    pub(super) async fn create(
        path: PathBuf,
        key: Key,
        directories: &Arc<Directories>,
        reserve: Arc<Reserve>,
    ) -> Result<Self> {
        let (target, directories) = (path.clone(), Arc::clone(directories));
        let file = blocking(move || {
            directories.within(&target, || File::options().write(true).create_new(true).open(&target))
        })
        .await
        .map_err(|e| Error::unavailable("create", key.as_str(), e))?;
        Ok(Self { file: Arc::new(file), path, key, length: 0, synced: None, reserve })
    }

    pub(super) async fn resume(path: PathBuf, key: Key, length: u64, reserve: Arc<Reserve>) -> Result<Self> {
        let target = path.clone();
        let opened = blocking(move || -> io::Result<Result<File, u64>> {
            let mut file = File::options().write(true).open(&target)?;
            let found = file.metadata()?.len();
            if found < length {
                return Ok(Err(found));
            }
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(Ok(file))
        })
        .await;
        let lost = |reason: String| Error::DataLost { key: key.clone(), reason };
        match opened {
            Ok(Ok(file)) => {
                Ok(Self { file: Arc::new(file), path, key, length, synced: Some(length), reserve })
            }
            Ok(Err(found)) => Err(lost(format!("{found} of {length} bytes are left"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(lost("the file is gone".into())),
            Err(error) => Err(Error::unavailable("open", key.as_str(), error)),
        }
    }

    async fn sync(&mut self) -> Result<()> {
        if self.synced == Some(self.length) {
            return Ok(());
        }
        let (file, path, entry_synced) = (Arc::clone(&self.file), self.path.clone(), self.synced.is_some());
        blocking(move || {
            file.sync_data()?;
            if entry_synced { Ok(()) } else { sync::sync_parent(&path) }
        })
        .await
        .map_err(|e| Error::unavailable("sync", self.key.as_str(), e))?;
        self.synced = Some(self.length);
        Ok(())
    }

    fn state(&self) -> WriterState {
        WriterState { key: self.key.as_str().to_owned(), length: self.length, multipart: None }
    }
}

#[async_trait]
impl DataWriter for FileWriter {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let (file, reserve) = (Arc::clone(&self.file), Arc::clone(&self.reserve));
        // What was given up is for what makes space, not for more data.
        let length = self.length;
        let write = move || if reserve.fill() { write_all(&file, length, &pieces) } else { Err(full()) };
        let written = blocking(write).await.map_err(|e| Error::unavailable("write", self.key.as_str(), e))?;
        self.length += written;
        Ok(())
    }

    fn length(&self) -> u64 {
        self.length
    }

    async fn checkpoint(&mut self) -> Result<Option<WriterState>> {
        self.sync().await?;
        Ok(Some(self.state()))
    }

    async fn pause(mut self: Box<Self>) -> Result<Paused> {
        self.sync().await?;
        Ok(Paused::Open(self.state()))
    }

    async fn seal(mut self: Box<Self>) -> Result<u64> {
        self.sync().await?;
        Ok(self.length)
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        let Self { path, key, .. } = *self;
        blocking(move || sync::remove_file(&path)).await.map_err(|e| failed("delete", &key, e))
    }
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

/// Writes end where the file has a multiple of so many bytes. On ext4 and XFS Linux makes pages of the cache as large as a write, and up
/// to 32 KiB it takes them from what a processor has freed lately. Larger ones are new memory: in a virtual machine whose host takes
/// back what is not used (Linux 6.18, ext4) writing a GiB took 0.3 s of a processor by 32 KiB, and 2 to 3 s by 64 KiB or more.
const STEP: usize = 32 * 1024;

/// Writes all pieces to a file that has `length` bytes, and says how many they were.
fn write_all(file: &File, length: u64, pieces: &[Bytes]) -> io::Result<u64> {
    /// Linux takes at most this many slices a call (`IOV_MAX`).
    const MAX_SLICES: usize = 1024;
    let mut slices = Vec::new();
    let mut room = STEP - usize::try_from(length % STEP as u64).unwrap_or_default();
    for piece in pieces {
        let mut rest = piece.as_ref();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            slices.push(IoSlice::new(now));
            (rest, room) = (later, room - now.len());
            if room == 0 || slices.len() == MAX_SLICES {
                write_slices(file, &mut slices)?;
                slices.clear();
                room = if room == 0 { STEP } else { room };
            }
        }
    }
    write_slices(file, &mut slices)?;
    Ok(pieces.iter().map(|piece| piece.len() as u64).sum())
}

fn write_slices(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_of_any_length_are_written_behind_one_another(
            before in 0_usize..2 * STEP,
            lengths in proptest::collection::vec(prop_oneof![0_usize..100, 0..3 * STEP], 0..6),
            tiny in 0_usize..3000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("data");
            let mut number = 0_u8;
            let mut bytes = |length: usize| -> Bytes {
                std::iter::repeat_with(|| { number = number.wrapping_add(7); number }).take(length).collect()
            };
            let (before, mut pieces) = (bytes(before), lengths.into_iter().map(&mut bytes).collect::<Vec<_>>());
            // More than one call takes.
            pieces.extend((0..tiny).map(|_| bytes(1)));
            let file = File::create(&path).unwrap();
            let first = write_all(&file, 0, std::slice::from_ref(&before)).unwrap();
            let written = write_all(&file, first, &pieces).unwrap();
            let expected = [before.to_vec(), pieces.concat()].concat();
            prop_assert_eq!(first + written, expected.len() as u64);
            prop_assert!(std::fs::read(&path).unwrap() == expected);
        }
    }
}
