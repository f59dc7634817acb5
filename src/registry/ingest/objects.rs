//! [`Objects`]: the data objects that an upload writes, one after the other.

use std::sync::Arc;

use bytes::Bytes;
use storage_backends::{DataWriter, Paused, Resumed, Store, WriterState};
use uuid::Uuid;

use crate::registry::claims::Claim;
use crate::registry::{Result, layout};

/// The data objects of an upload.
#[derive(Debug)]
pub(super) struct Objects {
    store: Arc<dyn Store>,
    /// What the upload uses.
    pub(super) claim: Arc<Claim>,
    writer: Option<Active>,
    /// Objects sealed by this request that no session refers to yet.
    sealed: Vec<Uuid>,
}

#[derive(Debug)]
struct Active {
    writer: Box<dyn DataWriter>,
    object: Uuid,
    /// The session refers to the object, so it must outlive a failure of this request.
    inherited: bool,
}

/// An object that is complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) object: Uuid,
    pub(super) length: u64,
}

/// Where a writer was left.
pub(super) enum PutAside {
    /// There was none.
    Nothing,
    /// It can be resumed.
    Open(WriterState),
    /// Its object is complete.
    Sealed(Sealed),
}

/// The object that a suspended writer is writing.
pub(in crate::registry) fn object_of(state: &WriterState) -> Option<Uuid> {
    state.key.rsplit('/').next().and_then(|id| Uuid::try_parse(id).ok())
}

impl Objects {
    pub(super) fn new(store: &Arc<dyn Store>, claim: Arc<Claim>) -> Self {
        Self { store: Arc::clone(store), claim, writer: None, sealed: Vec::new() }
    }

    /// Takes up the object that a session has left. One that the store cannot go on in is told.
    pub(super) async fn resume(
        &mut self,
        state: &WriterState,
        object: Uuid,
    ) -> storage_backends::Result<Option<Sealed>> {
        Ok(match self.store.resume_data(state).await? {
            Resumed::Open(writer) => {
                self.writer = Some(Active { writer, object, inherited: true });
                None
            }
            Resumed::Sealed(length) => Some(Sealed { object, length }),
        })
    }

    /// The object that is being written, and its length.
    pub(super) fn current(&self) -> Option<Sealed> {
        let Active { writer, object, .. } = self.writer.as_ref()?;
        Some(Sealed { object: *object, length: writer.length() })
    }

    /// The object that is being written, which is begun if there is none.
    pub(super) async fn open(&mut self) -> Result<Sealed> {
        let active = self.active().await?;
        Ok(Sealed { object: active.object, length: active.writer.length() })
    }

    /// Appends to the object that is being written.
    pub(super) async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        Ok(self.active().await?.writer.write(pieces).await?)
    }

    async fn active(&mut self) -> Result<&mut Active> {
        let active = if let Some(active) = self.writer.take() {
            active
        } else {
            let object = Uuid::now_v7();
            self.claim.add(object);
            let writer = self.store.create_data(&layout::data(object)).await?;
            Active { writer, object, inherited: false }
        };
        Ok(self.writer.insert(active))
    }

    /// Ends the object that is being written, if any; the next bytes begin another.
    pub(super) async fn seal(&mut self) -> Result<Option<Sealed>> {
        let Some(Active { writer, object, inherited }) = self.writer.take() else { return Ok(None) };
        let length = writer.seal().await?;
        if !inherited {
            self.sealed.push(object);
        }
        Ok(Some(Sealed { object, length }))
    }

    /// Makes what was written safe against a crash, where the store can do that in the middle of an object.
    pub(super) async fn checkpoint(&mut self) -> Result<Option<WriterState>> {
        match &mut self.writer {
            Some(active) => Ok(active.writer.checkpoint().await?),
            None => Ok(None),
        }
    }

    /// From here on the session may refer to everything that was written.
    pub(super) fn entrust(&mut self) {
        self.sealed.clear();
        if let Some(active) = &mut self.writer {
            active.inherited = true;
        }
    }

    /// Puts the object that is being written aside.
    pub(super) async fn pause(&mut self) -> Result<PutAside> {
        let Some(Active { writer, object, inherited }) = self.writer.take() else {
            return Ok(PutAside::Nothing);
        };
        Ok(match writer.pause().await? {
            Paused::Open(state) => PutAside::Open(state),
            Paused::Sealed(length) => {
                if !inherited {
                    self.sealed.push(object);
                }
                PutAside::Sealed(Sealed { object, length })
            }
        })
    }

    /// Objects sealed by this request that no session refers to yet.
    pub(super) fn sealed(&self) -> &[Uuid] {
        &self.sealed
    }

    /// Drops what no session refers to. Best effort: what stays is garbage.
    pub(super) async fn abandon(self) {
        if let Some(Active { writer, inherited: false, .. }) = self.writer
            && let Err(error) = writer.discard().await
        {
            tracing::warn!(%error, "failed to discard the data of a failed upload");
        }
        for object in self.sealed {
            if let Err(error) = self.store.delete(&layout::data(object)).await {
                tracing::warn!(%error, "failed to delete the data of a failed upload");
            }
        }
    }
}
