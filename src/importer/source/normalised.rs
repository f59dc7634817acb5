//! [`NormalisedSource`]: another source in another format, in a temporary file.

use tempfile::TempPath;

use super::FileSource;
use crate::artifact::Annotations;
use crate::disk::Compression;

/// A disk that was converted. Its file goes with it.
#[derive(Debug)]
pub struct NormalisedSource {
    pub(super) file: FileSource,
    _path: TempPath,
    pub(in crate::importer) origin: Origin,
}

/// What is known of the source that was converted.
#[derive(Debug, Clone)]
pub(in crate::importer) struct Origin {
    pub(in crate::importer) annotations: Annotations,
    pub(in crate::importer) architecture: Option<String>,
    pub(in crate::importer) compression: Compression,
    /// Bytes.
    pub(in crate::importer) size: u64,
}

impl NormalisedSource {
    pub(in crate::importer) fn new(path: TempPath, origin: Origin) -> Self {
        Self { file: FileSource::new(path.to_path_buf()), _path: path, origin }
    }
}
