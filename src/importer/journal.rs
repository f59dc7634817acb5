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

    /// The entry for an upload of `what`; `None` without a journal, or while another import has it.
    ///
    /// The journal only saves work, so that a folder that cannot be written is a warning.
    pub(super) fn entry(&self, what: &str) -> Option<Entry> {
        let folder = self.folder.as_ref()?;
        let path = folder.join(format!("{}.upload", Digest::of(Algorithm::Sha256, what.as_bytes()).hex()));
        let open = || {
            std::fs::create_dir_all(folder)?;
            // A session's URL may hold a secret.
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)
        };
        match open() {
            Ok(file) => file.try_lock().is_ok().then_some(Entry { path, file }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remember the upload: it would start anew");
                None
            }
        }
    }
}

impl Entry {
    /// Where the upload goes on, if it was begun.
    pub(super) fn session(&mut self) -> Option<Url> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        self.file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Remembers where the upload goes on.
    pub(super) fn remember(&mut self, session: &Url) {
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(session.as_str().as_bytes())
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
        let mut entry = journal.entry("a").unwrap();
        assert_eq!(entry.session(), None);
        entry.remember(&session);
        drop(entry);
        let mut entry = journal.entry("a").unwrap();
        assert_eq!(entry.session(), Some(session));
        entry.forget();
        assert_eq!(journal.entry("a").unwrap().session(), None);
    }

    #[test]
    fn two_imports_never_share_an_upload() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path());
        let entry = journal.entry("a").unwrap();
        assert!(journal.entry("a").is_none());
        assert!(journal.entry("b").is_some());
        drop(entry);
        assert!(journal.entry("a").is_some());
    }
}
