//! [`unpack`] and [`locate`]: the disk's file in a layer.
//!
//! KubeVirt wants exactly one entry below `/disk`, CDI takes the first and silently turns a link into an empty
//! disk. An image on which importers would disagree is refused: one regular file, directly below `disk/`.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use tar::{Archive, EntryType};

/// The disk's file in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFile {
    /// Its name below `disk/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// What a layer held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// The disk's file, if it was in this layer.
    pub file: Option<DiskFile>,
}

/// A layer that holds no clear disk.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Which one is meant nobody can say.
    #[error("the image has several files under disk/, {first:?} and {second:?}: it must have one")]
    SeveralFiles {
        /// The first.
        first: String,
        /// Another.
        second: String,
    },
    /// A link, a device, a pipe.
    #[error("{name:?} is {kind} and no regular file")]
    NotAFile {
        /// The entry.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A folder below `disk/`.
    #[error("{name:?} is not directly under disk/, where importers look")]
    TooDeep {
        /// The entry.
        name: String,
    },
    /// A sparse file in a form that tar readers take for the file itself.
    #[error(
        "{name:?} is stored sparse in a form that is not supported here: build the image without tar --sparse"
    )]
    Sparse {
        /// The entry.
        name: String,
    },
    /// A layer that deletes what is below it.
    #[error("{name:?} deletes files of a lower layer: build the image FROM scratch with one layer")]
    Whiteout {
        /// The entry.
        name: String,
    },
    /// The layer is no tar, or the disk could not be handed on.
    #[error("the layer cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads a whole layer and hands the disk's content to `sink`, at most once in all layers of an image: `found` is
/// what a lower layer held.
pub fn unpack(
    layer: impl Read,
    found: Option<&DiskFile>,
    mut sink: impl FnMut(&DiskFile, &mut dyn Read) -> io::Result<()>,
) -> Result<Unpacked, UnpackError> {
    let mut archive = Archive::new(layer);
    let mut unpacked = Unpacked::default();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(file) = disk_file(&mut entry, unpacked.file.as_ref().or(found))? else { continue };
        sink(&file, &mut entry)?;
        unpacked.file = Some(file);
    }
    // Behind the archive's end there may be padding, which is a part of the layer and of its digest.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(unpacked)
}

/// Finds the disk's file in a layer without reading its content, and the first byte of it: `found` is what a lower layer
/// held.
pub fn locate(
    mut layer: impl Read + Seek,
    found: Option<&DiskFile>,
) -> Result<Option<(DiskFile, u64)>, UnpackError> {
    let length = layer.seek(SeekFrom::End(0))?;
    layer.rewind()?;
    let mut archive = Archive::new(layer);
    let mut located = None;
    for entry in archive.entries_with_seek()? {
        let mut entry = entry?;
        // Content that is not there is passed over without a word.
        if entry.raw_file_position().checked_add(stored_size(&entry)).is_none_or(|end| end > length) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let before = located.as_ref().map(|(file, _)| file).or(found);
        let Some(file) = disk_file(&mut entry, before)? else { continue };
        if entry.header().entry_type() == EntryType::GNUSparse {
            return Err(UnpackError::Sparse { name: file.name });
        }
        located = Some((file, entry.raw_file_position()));
    }
    Ok(located)
}

/// Bytes of an entry in the layer.
fn stored_size(entry: &tar::Entry<impl Read>) -> u64 {
    match entry.header().entry_type() {
        // Its size is that of the file that is made of it.
        EntryType::GNUSparse => entry.header().entry_size().unwrap_or(u64::MAX),
        _ => entry.size(),
    }
}

/// The disk's file, if the entry is that; `found` is one that came before.
fn disk_file(
    entry: &mut tar::Entry<impl Read>,
    found: Option<&DiskFile>,
) -> Result<Option<DiskFile>, UnpackError> {
    let path = entry.path()?.into_owned();
    let name = path.display().to_string();
    if path.file_name().is_some_and(|name| name == ".wh.disk") && path.components().count() <= 2 {
        return Err(UnpackError::Whiteout { name });
    }
    let below = match Place::of(&path) {
        Place::Elsewhere => return Ok(None),
        Place::Disk => match entry.header().entry_type() {
            EntryType::Directory => return Ok(None),
            kind => return Err(UnpackError::NotAFile { name, kind: describe(kind) }),
        },
        Place::Below(below) => below,
    };
    if below.starts_with(".wh.") {
        return Err(UnpackError::Whiteout { name });
    }
    // Ahead of its name, which GNU's tar makes one of a folder that does not exist.
    if is_pax_sparse(entry)? {
        return Err(UnpackError::Sparse { name });
    }
    if below.contains('/') {
        return Err(UnpackError::TooDeep { name });
    }
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {}
        // A folder in disk/ is an entry too many for KubeVirt.
        kind => return Err(UnpackError::NotAFile { name, kind: describe(kind) }),
    }
    match found {
        Some(first) => Err(UnpackError::SeveralFiles { first: first.name.clone(), second: below }),
        None => Ok(Some(DiskFile { name: below, size: entry.size() })),
    }
}

/// Whether an entry's content is a map and pieces of a file, by GNU's extension of PAX.
fn is_pax_sparse(entry: &mut tar::Entry<impl Read>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where an entry lies.
enum Place {
    /// It is of no interest.
    Elsewhere,
    /// It is `disk` itself.
    Disk,
    /// It is below `disk/`, by this path.
    Below(String),
}

impl Place {
    fn of(path: &Path) -> Self {
        let mut components = path
            .components()
            .filter(|component| !matches!(component, Component::RootDir | Component::CurDir));
        if components.next().is_none_or(|first| first.as_os_str() != "disk") {
            return Self::Elsewhere;
        }
        let rest: Vec<_> = components.map(|component| component.as_os_str().to_string_lossy()).collect();
        if rest.is_empty() { Self::Disk } else { Self::Below(rest.join("/")) }
    }
}

fn describe(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Directory => "a folder",
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Block | EntryType::Char => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::Regular => "a file",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(layer: &[u8], found: Option<&DiskFile>) -> Result<(Option<DiskFile>, Vec<u8>), UnpackError> {
        let mut content = Vec::new();
        let unpacked = unpack(layer, found, |_, reader| reader.read_to_end(&mut content).map(drop))?;
        Ok((unpacked.file, content))
    }

    use EntryType::{Directory, Regular, Symlink};

    #[test]
    fn the_file_is_found_however_its_path_is_written() {
        for name in ["disk/a.img", "./disk/a.img", "/disk/a.img"] {
            let layer = tar(&[
                ("./", Directory, b""),
                ("etc/x", Regular, b"no"),
                ("disk/", Directory, b""),
                (name, Regular, b"yes"),
            ]);
            let (file, content) = read(&layer, None).unwrap();
            assert_eq!(file, Some(DiskFile { name: "a.img".to_owned(), size: 3 }), "{name}");
            assert_eq!(content, b"yes");
            let (located, position) = locate(io::Cursor::new(&layer), None).unwrap().unwrap();
            assert_eq!(Some(located), file);
            let position = usize::try_from(position).unwrap();
            assert_eq!(layer[position..position + 3], *b"yes");
        }
    }

    #[test]
    fn an_image_that_importers_would_read_differently_is_refused() {
        let other = DiskFile { name: "b".to_owned(), size: 1 };
        for (entries, found) in [
            (vec![("disk/a", Regular, &b"a"[..]), ("disk/b", Regular, b"b")], None),
            (vec![("disk/a", Regular, b"a")], Some(&other)),
            (vec![("disk/a", Symlink, b"")], None),
            (vec![("disk", Symlink, b"")], None),
            (vec![("disk/sub/", Directory, b"")], None),
            (vec![("disk/sub/a", Regular, b"a")], None),
            (vec![("disk/.wh.a", Regular, b"")], None),
            (vec![(".wh.disk", Regular, b"")], None),
        ] {
            assert!(read(&tar(&entries), found).is_err(), "{entries:?}");
            assert!(locate(io::Cursor::new(tar(&entries)), found).is_err(), "{entries:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_stored_as_it_is_is_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0")]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("disk/a").unwrap();
        header.set_size(1);
        header.set_cksum();
        builder.append(&header, &b"a"[..]).unwrap();
        let error = read(&builder.into_inner().unwrap(), None).unwrap_err();
        assert!(matches!(error, UnpackError::Sparse { .. }), "{error}");
    }

    #[test]
    fn a_layer_without_a_disk_is_none() {
        assert_eq!(read(&tar(&[("diskette", Regular, b"x")]), None).unwrap().0, None);
        assert_eq!(read(&tar(&[]), None).unwrap().0, None);
    }

    #[test]
    fn what_is_no_tar_is_an_error() {
        assert!(read(&[7; 2048], None).is_err());
        let whole = tar(&[("disk/a", Regular, &[1; 5000])]);
        assert!(read(&whole[..3000], None).is_err(), "a layer that was cut short");
        assert!(locate(io::Cursor::new(&whole[..3000]), None).is_err(), "a layer that was cut short");
    }
}
