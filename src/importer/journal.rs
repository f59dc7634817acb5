//! [`Journal`]: which uploads were begun and not finished, so that a killed import goes on when it is started again.
//!
//! One small file per upload, named after what is uploaded from where to where. Its lock belongs to the
//! import that writes it, so that two imports of the same disk never share an upload.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use url::Url;

use crate::oci::{Algorithm, Digest};

/// A folder of begun uploads, or none.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    folder: Option<PathBuf>,
}

/// One upload's entry, locked while it is held.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// A journal in `folder`, which is made when it is first needed.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// A new entry for an upload of `what`, or the one that is there; `None` without a journal, or while another import
    /// has it.
    ///
    /// The journal only saves work, so that a folder that cannot be written is a warning.
    pub(super) fn entry(&self, what: &str) -> Option<Entry> {
        let folder = self.folder.as_ref()?;
        let opened = std::fs::create_dir_all(folder).and_then(|()| self.open(what, true));
        opened.unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "cannot remember the upload: it would start anew");
            None
        })
    }

    /// The entry for an upload of `what`, if it was begun before and no other import has it.
    pub(super) fn find(&self, what: &str) -> Option<Entry> {
        self.open(what, false).ok()?
    }

    fn open(&self, what: &str, create: bool) -> std::io::Result<Option<Entry>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let name = Digest::of(Algorithm::Sha256, what.as_bytes());
        let path = folder.join(format!("{}.upload", name.hex()));
        // A session's URL may hold a secret.
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(create).truncate(false).mode(0o600).open(&path)?;
        Ok(file.try_lock().is_ok().then_some(Entry { path, file }))
    }
}

/// How far an upload came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Begun {
    /// It goes on at this session.
    Upload(Url),
    /// The layer is in the registry, and the image was not named yet.
    Finished,
}

/// What stands for [`Begun::Finished`].
const FINISHED: &str = "finished";

impl Entry {
    /// How far the upload came, if it was begun.
    pub(super) fn begun(&mut self) -> Option<Begun> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        self.file.read_to_string(&mut text).ok()?;
        match text.trim() {
            FINISHED => Some(Begun::Finished),
            session => session.parse().ok().map(Begun::Upload),
        }
    }

    /// Remembers how far the upload has come.
    pub(super) fn remember(&mut self, begun: &Begun) {
        let text = match begun {
            Begun::Upload(session) => session.as_str(),
            Begun::Finished => FINISHED,
        };
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())
        };
        if let Err(error) = write() {
            tracing::warn!(path = %self.path.display(), %error, "cannot remember the upload");
        }
    }

    /// Forgets the upload.
    pub(super) fn forget(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_remembered_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("uploads"));
        let session: Url = "http://127.0.0.1:5000/v2/a/blobs/uploads/1".parse().unwrap();
        assert!(journal.find("a").is_none(), "looking makes no entry");
        let mut entry = journal.entry("a").unwrap();
        assert_eq!(entry.begun(), None);
        entry.remember(&Begun::Upload(session.clone()));
        drop(entry);
        let mut entry = journal.find("a").unwrap();
        assert_eq!(entry.begun(), Some(Begun::Upload(session)));
        entry.remember(&Begun::Finished);
        assert_eq!(entry.begun(), Some(Begun::Finished));
        entry.forget();
        assert!(journal.find("a").is_none());
    }

    #[test]
    fn two_imports_never_share_an_upload() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path());
        let entry = journal.entry("a").unwrap();
        assert!(journal.entry("a").is_none());
        assert!(journal.find("a").is_none());
        assert!(journal.entry("b").is_some());
        drop(entry);
        assert!(journal.entry("a").is_some());
    }
}
