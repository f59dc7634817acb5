//! [`AuditFile`]: a file of lines that somebody else may move away.
//!
//! Each line is written at once, before the request is answered that it is about. Whether the file is still where it was is looked
//! at each time, so that logrotate needs to tell nobody; a line that cannot be written goes to standard error.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// A file that lines are appended to.
#[derive(Debug, Clone)]
pub struct AuditFile {
    path: PathBuf,
    open: Arc<Mutex<Option<File>>>,
}

impl AuditFile {
    /// Opens the file, which is made if there is none.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = append(&path)?;
        Ok(Self { path, open: Arc::new(Mutex::new(Some(file))) })
    }

    /// Opens the file anew before the next line.
    pub fn reopen(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_here = open.as_ref().is_some_and(|file| is_at(file, &self.path));
        if !is_here {
            *open = None;
        }
        let file = match &mut *open {
            Some(file) => file,
            closed => closed.insert(append(&self.path)?),
        };
        file.write_all(line)
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), path.metadata()) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

impl<'a> MakeWriter<'a> for AuditFile {
    type Writer = Appending<'a>;

    fn make_writer(&'a self) -> Appending<'a> {
        Appending(self)
    }
}

/// Writes one line, which comes in one piece.
#[derive(Debug)]
pub struct Appending<'a>(&'a AuditFile);

impl Write for Appending<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.0.append(line) {
            // Not by the log, which this is a part of.
            eprintln!(
                "cannot write to {}: {error}: {}",
                self.0.path.display(),
                String::from_utf8_lossy(line).trim_end()
            );
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let file = AuditFile::open(path.clone()).unwrap();
        file.make_writer().write_all(b"one\n").unwrap();
        let moved = folder.path().join("audit.log.1");
        std::fs::rename(&path, &moved).unwrap();
        file.make_writer().write_all(b"two\n").unwrap();
        file.reopen();
        file.make_writer().write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "two\nthree\n");
    }
}
