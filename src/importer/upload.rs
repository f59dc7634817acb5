//! [`Upload`]: the upload of one layer, over several passes and, by the journal, over several processes.

use url::Url;

use super::Journal;
use super::journal::{Begun, Entry};
use crate::artifact::LayerShape;
use crate::client::{BlobUpload, ClientError, Repository};
use crate::oci::{Algorithm, Digest};

/// The upload of a layer.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) session: BlobUpload,
    pub(super) shape: LayerShape,
    pub(super) entry: Option<Entry>,
    /// Whether another process began it, perhaps with other bytes.
    pub(super) is_resumed: bool,
}

/// What was left by an import before.
pub(super) enum Left {
    Nothing,
    /// An upload that can be gone on with.
    Upload(Box<Upload>),
    /// A layer that was not named yet.
    Layer(Entry),
}

/// What makes an upload this one: where it goes, what it is, how it begins, where it comes from.
pub(super) struct Identity {
    text: String,
}

impl Identity {
    pub(super) fn new(repository: &Repository, shape: &LayerShape, head: &[u8], source: &str) -> Self {
        let begins = Digest::of(Algorithm::Sha256, head);
        let (registry, name) = (repository.registry(), repository.name());
        Self { text: format!("{registry}/{name}\n{shape:?}\n{begins}\n{source}") }
    }
}

/// Looks for what an import before has left.
pub(super) async fn left(
    journal: &Journal,
    identity: &Identity,
    repository: Repository,
    shape: &LayerShape,
) -> Left {
    let Some(mut entry) = journal.find(&identity.text) else { return Left::Nothing };
    let session = match entry.begun() {
        Some(Begun::Finished) => return Left::Layer(entry),
        Some(Begun::Upload(session)) => session,
        None => return Left::Nothing,
    };
    match BlobUpload::resume(repository, session).await {
        Some(session) => {
            tracing::info!(bytes = session.offset(), "going on with an upload");
            Left::Upload(Box::new(Upload {
                session,
                shape: shape.clone(),
                entry: Some(entry),
                is_resumed: true,
            }))
        }
        None => Left::Nothing,
    }
}

impl Upload {
    /// Begins an upload.
    pub(super) async fn begin(
        journal: &Journal,
        identity: &Identity,
        repository: Repository,
        shape: LayerShape,
    ) -> Result<Self, ClientError> {
        let session = BlobUpload::begin(repository).await?;
        let mut entry = journal.entry(&identity.text);
        remember(&mut entry, session.session());
        Ok(Self { session, shape, entry, is_resumed: false })
    }

    /// Takes the upload back.
    pub(super) async fn cancel(self) {
        warn_about(self.session.cancel().await);
        if let Some(entry) = self.entry {
            entry.forget();
        }
    }

    /// The layer is in the registry.
    pub(super) fn finished(mut self) -> Option<Entry> {
        if let Some(entry) = &mut self.entry {
            entry.remember(&Begun::Finished);
        }
        self.entry
    }
}

/// Notes where an upload goes on.
pub(super) fn remember(entry: &mut Option<Entry>, session: &Url) {
    if let Some(entry) = entry {
        entry.remember(&Begun::Upload(session.clone()));
    }
}

/// An upload that cannot be taken back is the registry's to time out.
pub(super) fn warn_about(outcome: Result<(), ClientError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot cancel the upload; the registry will time it out");
    }
}
