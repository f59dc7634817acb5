//! [`UploadedSource`]: a file that somebody uploaded to the registry for an image.
//!
//! It stays there when it was read: whoever asked for the import removes it when its outcome is on record.

use oci_spec::image::ImageManifest;

use super::Opened;
use super::spooled::open_salted;
use crate::client::{ClientError, Repository};
use crate::importer::SourceError;
use crate::oci::{Digest, Reference, SALT, SALTED_FILE, uploaded_file_tag};

/// An uploaded file.
#[derive(Debug, Clone)]
pub struct UploadedSource {
    repository: Repository,
    /// The blob and the bytes of the file, once they were asked for.
    found: Option<(Digest, u64)>,
}

impl UploadedSource {
    /// The file of `repository`, which is its own.
    #[must_use]
    pub fn new(repository: Repository) -> Self {
        Self { repository, found: None }
    }

    pub(super) async fn open(&mut self) -> Result<Opened, SourceError> {
        let (digest, size) = match &self.found {
            Some(found) => found.clone(),
            None => self.found.insert(self.find().await?).clone(),
        };
        open_salted(self.repository.clone(), digest, size).await
    }

    async fn find(&self) -> Result<(Digest, u64), SourceError> {
        let manifest = self.repository.manifest(&Reference::Tag(uploaded_file_tag())).await?;
        let what = format!("{}/{}", self.repository.registry(), self.repository.name());
        let wrong =
            || ClientError::Protocol { url: what.clone(), reason: "it is no uploaded file".to_owned() };
        let parsed: ImageManifest = serde_json::from_slice(&manifest.bytes).map_err(|_| wrong())?;
        let [file] = parsed.layers().as_slice() else { return Err(wrong().into()) };
        let size = file.size().checked_sub(SALT).filter(|_| file.media_type().to_string() == SALTED_FILE);
        let digest = file.digest().to_string().parse().ok();
        digest.zip(size).ok_or_else(|| wrong().into())
    }
}
