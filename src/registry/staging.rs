//! [`Staging`]: files that people upload for an image, kept until an import has taken them.
//!
//! A file may come in several pieces, over connections that break and through any replica. Until it is whole it is an
//! upload session whose id is that of the image; then it is a blob with a manifest. Bytes are written once. Ids are used
//! again, when a file is begun anew: so no session is removed here, but given up, and the next one written over it by
//! compare-and-swap. A collection removes what lies there for a week.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ingest::{Body, BodyError};
use super::record::{Ending, SessionRecord};
use super::session::{Session, SessionId};
use super::{Append, Error, Registry, layout, record};
use crate::oci::{
    Algorithm, Digest, Hasher, MediaType, Reference, RepositoryName, SALT, SALTED_FILE, UPLOADED_FILE, salt,
    uploaded_file, uploaded_file_tag,
};

/// The config of a manifest that needs none (image specification, "Guidance for an Empty Descriptor").
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// How much of a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// So many bytes from the start on, which may be none.
    Partial {
        /// Bytes.
        length: u64,
    },
    /// Somebody is sending.
    Receiving {
        /// Bytes that came so far.
        length: u64,
        /// Bytes of the file, if the sender knows.
        total: Option<u64>,
    },
    /// All of it.
    Whole {
        /// Bytes.
        size: u64,
    },
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file it begins. A piece that begins at 0 begins the file anew.
    pub start: u64,
    /// Bytes of the piece, if they are known.
    pub length: Option<u64>,
    /// Bytes of the file.
    pub total: Total,
}

/// How long a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// So many bytes.
    Bytes(u64),
    /// It ends where the piece ends.
    EndOfPiece,
    /// The sender has more, and does not know yet how much.
    More,
}

impl Total {
    /// Bytes, if they are known.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::EndOfPiece | Self::More => None,
        }
    }
}

/// A piece was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The file is whole already.
    #[error("the file has been uploaded already")]
    Whole,
    /// No file is taken for the image any more.
    #[error("the image is there or was deleted; it takes no upload any more")]
    Closed,
    /// Somebody else is sending.
    #[error("another upload of this file is under way")]
    Busy,
    /// It does not begin where the file ends so far.
    #[error("the upload stands at byte {length}")]
    OutOfOrder {
        /// Bytes that are there.
        length: u64,
    },
    /// It is longer than the file.
    #[error("the file was announced with {total} bytes, and {length} came")]
    TooLong {
        /// Bytes announced.
        total: u64,
        /// Bytes that would be there.
        length: u64,
    },
    /// The engine refused or failed.
    #[error(transparent)]
    Registry(#[from] Error),
}

/// Uploaded files, by the id of the image that they are for.
#[derive(Debug)]
pub struct Staging {
    registry: Arc<Registry>,
    /// The files that this process is receiving.
    receiving: Mutex<HashMap<Uuid, Live>>,
}

/// A file that is being received.
#[derive(Debug, Clone, Default)]
struct Live {
    /// Bytes that came so far.
    length: Arc<AtomicU64>,
    /// Bytes of the file, if they are known.
    total: Option<u64>,
    /// Nobody wants it any more.
    unwanted: CancellationToken,
}

/// Its place on the list, until it is dropped.
struct Receiving<'a> {
    staging: &'a Staging,
    id: Uuid,
    live: Live,
}

/// How often a removal looks whether the file that nobody wants is still being received.
const POLL: Duration = Duration::from_millis(20);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.staging.receiving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Staging {
    /// The uploaded files of `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, receiving: Mutex::default() }
    }

    /// How much of a file is there.
    pub async fn staged(&self, id: Uuid) -> Result<Staged, StagingError> {
        if let Some(live) = self.live(id) {
            return Ok(Staged::Receiving { length: live.length.load(Ordering::Relaxed), total: live.total });
        }
        if let Some((_, size)) = self.whole(id).await? {
            return Ok(Staged::Whole { size });
        }
        let length = match self.registry.upload_status(&uploaded_file(id), SessionId::of(id)).await {
            Ok(status) => status.length.saturating_sub(SALT),
            Err(Error::SessionUnknown { .. }) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(Staged::Partial { length })
    }

    /// Takes a piece of a file. When the connection breaks, what had come is kept.
    pub async fn receive(&self, id: Uuid, piece: Piece, body: Body) -> Result<Staged, StagingError> {
        let receiving = self.begin(id, piece.total.bytes())?;
        if self.is_closed(id).await? {
            return Err(StagingError::Closed);
        }
        self.finish_sealing(id).await?;
        if self.whole(id).await?.is_some() {
            return Err(StagingError::Whole);
        }
        if let Total::Bytes(total) = piece.total
            && let Some(length) = piece.length.map(|length| piece.start.saturating_add(length))
            && length > total
        {
            return Err(StagingError::TooLong { total, length });
        }
        let name = uploaded_file(id);
        let session = SessionId::of(id);
        receiving.live.length.store(piece.start, Ordering::Relaxed);
        let body = counted(body, receiving.live.clone());
        let (append, mut body) = if piece.start == 0 {
            self.forget_session(id).await?;
            self.create(id).await?;
            let salted = stream::iter([Ok(salt().into())]).chain(body).boxed();
            (
                Append { start: Some(0), length: piece.length.map(|length| length.saturating_add(SALT)) },
                salted,
            )
        } else {
            (Append { start: Some(piece.start.saturating_add(SALT)), length: piece.length }, body)
        };
        let status = match self.registry.append(&name, session, append, &mut body).await {
            Ok(status) => status,
            Err(Error::OutOfOrder { length, .. }) => {
                return Err(StagingError::OutOfOrder { length: length.saturating_sub(SALT) });
            }
            Err(Error::SessionUnknown { .. }) => return Err(StagingError::OutOfOrder { length: 0 }),
            Err(error) => return Err(error.into()),
        };
        let length = status.length.saturating_sub(SALT);
        match piece.total {
            Total::Bytes(total) if length > total => {
                self.forget_session(id).await?;
                Err(StagingError::TooLong { total, length })
            }
            Total::Bytes(total) if length < total => Ok(Staged::Partial { length }),
            Total::More => Ok(Staged::Partial { length }),
            Total::Bytes(_) | Total::EndOfPiece => {
                self.seal(id, length).await?;
                Ok(Staged::Whole { size: length })
            }
        }
    }

    /// Removes whatever there is of a file, also while somebody is sending it.
    pub async fn remove(&self, id: Uuid) -> Result<(), StagingError> {
        let _receiving = self.seize(id).await?;
        self.discard(id).await
    }

    /// Removes whatever there is of a file, and takes no other one with its id from now on.
    ///
    /// What says so is a session that is closed: it is collected as abandoned sessions are, and by then the tokens with its
    /// id have expired.
    pub async fn close(&self, id: Uuid) -> Result<(), StagingError> {
        let _receiving = self.seize(id).await?;
        if self.is_closed(id).await? {
            return Ok(());
        }
        self.discard(id).await?;
        Ok(self.create(id).await?.close(self.registry.store.as_ref()).await?)
    }

    async fn is_closed(&self, id: Uuid) -> Result<bool, StagingError> {
        let key = layout::session(id);
        let found = record::find::<SessionRecord>(self.registry.store.as_ref(), &key).await?;
        Ok(found.is_some_and(|(record, _)| record.ending == Some(Ending::Closed)))
    }

    /// Makes sure that nobody else is at work on a file.
    async fn seize(&self, id: Uuid) -> Result<Receiving<'_>, StagingError> {
        loop {
            match self.begin(id, None) {
                Err(StagingError::Busy) => {
                    if let Some(live) = self.live(id) {
                        live.unwanted.cancel();
                    }
                    tokio::time::sleep(POLL).await;
                }
                begun => return begun,
            }
        }
    }

    async fn discard(&self, id: Uuid) -> Result<(), StagingError> {
        self.finish_sealing(id).await?;
        self.forget_session(id).await?;
        let Some((blob, _)) = self.whole(id).await? else { return Ok(()) };
        let name = uploaded_file(id);
        let manifest = self.registry.manifest(&name, &Reference::Tag(uploaded_file_tag())).await?;
        // The blob first: without its manifest nobody would find it any more.
        gone(self.registry.delete_blob(&name, &blob).await)?;
        gone(self.registry.delete_manifest(&name, &manifest.digest).await)?;
        Ok(())
    }

    fn begin(&self, id: Uuid, total: Option<u64>) -> Result<Receiving<'_>, StagingError> {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if receiving.contains_key(&id) {
            return Err(StagingError::Busy);
        }
        let live = Live { total, ..Live::default() };
        receiving.insert(id, live.clone());
        Ok(Receiving { staging: self, id, live })
    }

    fn live(&self, id: Uuid) -> Option<Live> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    async fn forget_session(&self, id: Uuid) -> Result<(), StagingError> {
        Ok(gone(self.registry.free_upload(&uploaded_file(id), SessionId::of(id)).await)?)
    }

    /// The session of a file, unless another replica has just begun one.
    async fn create(&self, id: Uuid) -> Result<Session, StagingError> {
        let (store, session) = (self.registry.store.as_ref(), SessionId::of(id));
        let created = Session::create_as(store, &uploaded_file(id), Algorithm::Sha256, session).await?;
        created.ok_or(StagingError::Busy)
    }

    /// Makes a file whose bytes were all there whole, when whoever was at it has died, or is slow: from that moment on its data
    /// belongs to the blob that it becomes, and to no other attempt.
    async fn finish_sealing(&self, id: Uuid) -> Result<(), StagingError> {
        let store = self.registry.store.as_ref();
        let length = match Session::load(store, &uploaded_file(id), SessionId::of(id)).await {
            Ok(Session {
                record: SessionRecord { ending: Some(Ending::Finishing(_)), length, .. }, ..
            }) => length,
            Ok(_) | Err(Error::SessionUnknown { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match self.seal(id, length.saturating_sub(SALT)).await {
            // The other one was done with it.
            Err(StagingError::Registry(Error::SessionUnknown { .. })) => Ok(()),
            sealed => sealed,
        }
    }

    /// The blob and the size of a file that is whole.
    async fn whole(&self, id: Uuid) -> Result<Option<(Digest, u64)>, StagingError> {
        let manifest =
            match self.registry.manifest(&uploaded_file(id), &Reference::Tag(uploaded_file_tag())).await {
                Ok(manifest) => manifest,
                Err(Error::ManifestUnknown { .. } | Error::RepositoryUnknown { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let document: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        let layer = &document["layers"][0];
        let digest = layer["digest"].as_str().and_then(|text| text.parse().ok());
        let size = layer["size"].as_u64().and_then(|size| size.checked_sub(SALT));
        Ok(digest.zip(size))
    }

    /// Makes a session whose bytes are all there a file. The session is given up when the file is there: whoever finds it
    /// before does all of it again.
    async fn seal(&self, id: Uuid, size: u64) -> Result<(), StagingError> {
        let (name, session) = (uploaded_file(id), SessionId::of(id));
        let digest = self.registry.uploaded_digest(&name, session).await?;
        let mut published = self.registry.publish_upload(&name, session, &digest).await?;
        let config = Bytes::from_static(b"{}");
        let config_digest = Digest::of(Algorithm::Sha256, &config);
        let append = Append { start: None, length: Some(config.len() as u64) };
        let mut body = stream::iter([Ok(config.clone())]).boxed();
        self.registry.push_blob(&name, append, &mut body, &config_digest).await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::IMAGE,
            "artifactType": UPLOADED_FILE,
            "config": { "mediaType": EMPTY_CONFIG, "digest": config_digest, "size": config.len() },
            "layers": [{ "mediaType": SALTED_FILE, "digest": digest, "size": size.saturating_add(SALT) }],
        });
        let media_type = MediaType::IMAGE.parse().ok();
        let reference = Reference::Tag(uploaded_file_tag());
        self.registry.push_manifest(&name, &reference, &[], media_type, manifest.to_string().into()).await?;
        if let Err(error) = published.give_up(self.registry.store.as_ref()).await {
            tracing::debug!(%error, image = %id, "the session of an uploaded file is not given up yet");
        }
        Ok(())
    }
}

/// The body, counted, until nobody wants it any more.
fn counted(body: Body, live: Live) -> Body {
    stream::unfold((body, live), |(mut body, live)| async move {
        let piece = tokio::select! {
            biased;
            () = live.unwanted.cancelled() => Err(BodyError::Interrupted),
            piece = body.next() => piece?,
        };
        live.length.fetch_add(piece.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
        Some((piece, (body, live)))
    })
    .boxed()
}

/// That what is removed is not there is as good.
fn gone(outcome: super::Result<()>) -> super::Result<()> {
    match outcome {
        Err(Error::SessionUnknown { .. } | Error::ManifestUnknown { .. } | Error::BlobUnknown { .. }) => {
            Ok(())
        }
        outcome => outcome,
    }
}

impl Registry {
    /// The digest of what an upload has received so far.
    async fn uploaded_digest(&self, name: &RepositoryName, id: SessionId) -> super::Result<Digest> {
        let session = Session::load(self.store.as_ref(), name, id).await?;
        let hasher = Hasher::resume(&session.record.hasher);
        hasher.map(Hasher::finish).ok_or_else(|| Error::SessionUnknown { id: id.to_string() })
    }
}
