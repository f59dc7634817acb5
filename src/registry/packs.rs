//! [`Packs`]: extents of packs out of the store, and those that were read lately out of memory.
//!
//! Packs never change, so what was read once stays true. In a bucket each reading is a request over the network, and a
//! hundred nodes that start the same machine need the same bytes within seconds: they are fetched once. A filesystem keeps
//! such things by itself.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use quick_cache::Weighter;
use storage_backends::{Result, Store};
use uuid::Uuid;

use super::lately::Lately;
use super::layout;

/// Bytes of an extent as it is read, about: to the cache a hint.
const EXTENT: u64 = 2 << 20;

/// An extent of a pack.
type Extent = (Uuid, u64, u64);

/// The packs of a store.
#[derive(Debug)]
pub(super) struct Packs {
    store: Arc<dyn Store>,
    lately: Option<Lately<Extent, Bytes, ByLength>>,
    /// Those that were found damaged, or not found, or that are condemned.
    avoided: RwLock<HashSet<Uuid>>,
    /// Those of which so little is needed that it is copied out of them.
    leaving: RwLock<Leaving>,
}

/// What is to be copied out of which packs.
#[derive(Debug, Default)]
struct Leaving {
    packs: HashSet<Uuid>,
    /// Recipes of blobs whose uploaders know that they are there.
    published: HashSet<Uuid>,
}

impl Packs {
    /// Keeps so many bytes in memory; 0: none.
    pub(super) fn new(store: &Arc<dyn Store>, memory: u64) -> Self {
        let extents = usize::try_from(memory / EXTENT).unwrap_or(usize::MAX).max(1);
        let lately = (memory > 0).then(|| Lately::new(extents, memory, ByLength));
        Self { store: Arc::clone(store), lately, avoided: RwLock::default(), leaving: RwLock::default() }
    }

    /// Whether what is read is kept, so that others should read the same extents.
    pub(super) fn keeps(&self) -> bool {
        self.lately.is_some()
    }

    /// An extent of a pack. However many ask for the same one at once, it is fetched once.
    pub(super) async fn read(self: &Arc<Self>, pack: Uuid, range: Range<u64>) -> Result<Bytes> {
        let Some(lately) = &self.lately else { return self.fetch(pack, range).await };
        let this = Arc::clone(self);
        lately.get((pack, range.start, range.end), async move { this.fetch(pack, range).await }).await
    }

    /// Something of this extent is not what was stored. It is fetched anew the next time, for it may have been damaged on its
    /// way; and nothing that comes in is taken to be stored in the pack.
    pub(super) fn distrust(&self, pack: Uuid, range: &Range<u64>) {
        self.avoid(&[pack]);
        if let Some(lately) = &self.lately {
            lately.forget(&(pack, range.start, range.end));
        }
    }

    /// From now on nothing that comes in is taken to be stored in these packs.
    pub(super) fn avoid(&self, packs: &[Uuid]) {
        self.avoided.write().unwrap_or_else(PoisonError::into_inner).extend(packs);
    }

    /// From now on what is needed of these packs, and no others, is copied out of them for blobs with these recipes, and nothing that
    /// comes in is taken to be stored there.
    pub(super) fn leave(&self, packs: HashSet<Uuid>, published: HashSet<Uuid>) {
        *self.leaving.write().unwrap_or_else(PoisonError::into_inner) = Leaving { packs, published };
    }

    /// Whether a recipe is one of a blob that may be copied from.
    pub(super) fn is_published(&self, recipe: Uuid) -> bool {
        self.leaving.read().unwrap_or_else(PoisonError::into_inner).published.contains(&recipe)
    }

    /// Whether what is needed of a pack is copied out of it.
    pub(super) fn is_leaving(&self, pack: Uuid) -> bool {
        self.leaving.read().unwrap_or_else(PoisonError::into_inner).packs.contains(&pack)
    }

    /// Whether a pack is there to stay, and nothing of it was found damaged.
    pub(super) fn is_trusted(&self, pack: Uuid) -> bool {
        !self.is_leaving(pack) && !self.avoided.read().unwrap_or_else(PoisonError::into_inner).contains(&pack)
    }

    async fn fetch(&self, pack: Uuid, range: Range<u64>) -> Result<Bytes> {
        let fetched = self.fetch_from_store(pack, range.clone()).await;
        fetched.inspect_err(|error| {
            if error.is_lost() {
                self.distrust(pack, &range);
            }
        })
    }

    async fn fetch_from_store(&self, pack: Uuid, range: Range<u64>) -> Result<Bytes> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut pieces = self.store.read(&layout::data(pack), range).await?;
        let Some(first) = pieces.try_next().await? else { return Ok(Bytes::new()) };
        // What is kept is copied: a piece may be a small part of a large buffer.
        if first.len() == length && !self.keeps() {
            return Ok(first);
        }
        let mut extent = BytesMut::with_capacity(length);
        extent.extend_from_slice(&first);
        while let Some(piece) = pieces.try_next().await? {
            extent.extend_from_slice(&piece);
        }
        Ok(extent.freeze())
    }
}

#[derive(Debug, Clone)]
struct ByLength;

impl Weighter<Extent, Bytes> for ByLength {
    fn weight(&self, _: &Extent, bytes: &Bytes) -> u64 {
        (size_of::<Extent>() + bytes.len()) as u64
    }
}
