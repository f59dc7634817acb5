//! [`Chunking`]: the chunks of a blob on their way into packs.
//!
//! Cutting is quick and has to be done in order. What takes time, to hash and to compress, is done for some batches at once
//! on the blocking threads; what comes out is stored in order again. A chunk that is stored already, by whatever blob, is
//! named and not stored.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use storage_backends::{Condition, Store};
use uuid::Uuid;

use super::objects::Objects;
use super::runs::{Span, scattered};
use crate::chunk::{ChunkId, Encoder, Part, Sizes, Splitter};
use crate::registry::blocking::blocking;
use crate::registry::chunk_index::ChunkIndex;
use crate::registry::places::Places;
use crate::registry::recipe::{Entry, Page, PagedRecipe, Place, Recipe};
use crate::registry::record::Extent;
use crate::registry::{Result, Rules, layout, recipe_page};

/// Batches of one upload that wait while another one is hashed and compressed.
const AHEAD: usize = 1;

/// Chunks of this upload that are remembered, in case they come again: the index knows those of published blobs only. They are
/// those of some 3 GiB, and as many as a table of 2 MiB takes before it grows.
const REMEMBERED: usize = 56 << 10;

/// The chunks of a blob on their way into packs.
pub(super) struct Chunking {
    rules: Rules,
    index: Arc<ChunkIndex>,
    splitter: Splitter,
    encoding: FuturesOrdered<BoxFuture<'static, (Vec<Encoded>, Encoder)>>,
    /// Those that have nothing to do.
    encoders: Vec<Encoder>,
    /// What the last stretch of the blob is made of.
    recipe: Recipe,
    /// The same, as far as it is stored.
    paged: PagedRecipe,
    remembered: Places,
    /// Recipes written by this request that no session refers to yet.
    written: Vec<Uuid>,
}

impl std::fmt::Debug for Chunking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunking").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

/// A part of a blob, ready to be stored.
enum Encoded {
    Zeros(u64),
    Known { id: ChunkId, place: Place },
    New { id: ChunkId, stored: Bytes, length: u32 },
}

impl Chunking {
    /// For a blob from its beginning on.
    pub(super) fn new(rules: Rules, index: &Arc<ChunkIndex>) -> Self {
        Self::with(rules, index, Splitter::new(Sizes::STORED))
    }

    /// For the rest of a blob, of whose disk so many bytes have passed.
    pub(super) fn resume(rules: Rules, index: &Arc<ChunkIndex>, passed: u64) -> Self {
        Self::with(rules, index, Splitter::resume(Sizes::STORED, passed))
    }

    fn with(rules: Rules, index: &Arc<ChunkIndex>, splitter: Splitter) -> Self {
        Self {
            rules,
            index: Arc::clone(index),
            splitter,
            encoding: FuturesOrdered::new(),
            encoders: Vec::new(),
            recipe: Recipe::default(),
            paged: PagedRecipe::default(),
            remembered: Places::default(),
            written: Vec::new(),
        }
    }

    /// Bytes of the disk that have passed.
    pub(super) fn passed(&self) -> u64 {
        self.splitter.passed()
    }

    /// Recipes written by this request that no session refers to yet.
    pub(super) fn written(&self) -> &[Uuid] {
        &self.written
    }

    /// From here on the session may refer to everything that was written.
    pub(super) fn entrust(&mut self) {
        self.written.clear();
    }

    /// Takes the next bytes of the blob. Recipes that became full are added to `extents`.
    pub(super) async fn write(
        &mut self,
        store: &dyn Store,
        objects: &mut Objects,
        extents: &mut Vec<Extent>,
        pieces: Vec<Bytes>,
    ) -> Result<()> {
        let placeholder = Splitter::resume(Sizes::STORED, 0);
        let mut splitter = std::mem::replace(&mut self.splitter, placeholder);
        let (splitter, parts) = blocking(move || {
            let parts: Vec<Part> = pieces.iter().flat_map(|piece| splitter.update(piece)).collect();
            (splitter, parts)
        })
        .await;
        self.splitter = splitter;
        self.encode(parts);
        while self.encoding.len() > AHEAD {
            self.store_next(store, objects, extents).await?;
        }
        Ok(())
    }

    /// Stores everything that came so far, and describes it in `extents`. What comes next begins with a new chunk.
    pub(super) async fn flush(
        &mut self,
        store: &dyn Store,
        objects: &mut Objects,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let next = Splitter::resume(Sizes::STORED, self.splitter.passed());
        let rest = std::mem::replace(&mut self.splitter, next).finish();
        self.encode(rest);
        while !self.encoding.is_empty() {
            self.store_next(store, objects, extents).await?;
        }
        let mut pending = Pending::default();
        self.end_recipe(store, objects, &mut pending, extents).await?;
        pending.write(objects).await
    }

    /// Removes the recipes that no session refers to. Best effort: what stays is garbage.
    pub(super) async fn abandon(self, store: &dyn Store) {
        for recipe in self.written {
            if let Err(error) = store.delete(&layout::recipe(recipe)).await {
                tracing::warn!(%error, "failed to delete a recipe of a failed upload");
            }
        }
    }

    fn encode(&mut self, parts: Vec<Part>) {
        if parts.is_empty() {
            return;
        }
        let (index, run) = (Arc::clone(&self.index), self.rules.run);
        let mut encoder = self.encoders.pop().unwrap_or_else(|| Encoder::new(self.rules.compression));
        self.encoding
            .push_back(Box::pin(blocking(move || (encode(parts, &index, run, &mut encoder), encoder))));
    }

    async fn store_next(
        &mut self,
        store: &dyn Store,
        objects: &mut Objects,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let Some((batch, encoder)) = self.encoding.next().await else { return Ok(()) };
        self.encoders.push(encoder);
        let mut pending = Pending::default();
        for part in batch {
            let entry = match part {
                Encoded::Zeros(length) => {
                    self.index.tally.add_zeros(length);
                    Entry::Zeros(length)
                }
                Encoded::Known { id, place } => {
                    self.index.tally.add_known(place.length);
                    objects.claim.add(place.pack);
                    Entry::Chunk { id, place }
                }
                Encoded::New { id, stored, length } => {
                    // Perhaps compressed there and not here, or the other way round: samples decide.
                    let is_same = |known: &Place| known.length == length;
                    let place = self.store_once(objects, &mut pending, id, stored, length, is_same).await?;
                    Entry::Chunk { id, place }
                }
            };
            self.push(entry, store, objects, &mut pending, extents).await?;
        }
        pending.write(objects).await
    }

    /// Takes over entries of another recipe, and gives chunks whose stored bytes come with them another place.
    pub(super) async fn copy(
        &mut self,
        store: &dyn Store,
        objects: &mut Objects,
        extents: &mut Vec<Extent>,
        entries: Vec<(Entry, Option<Bytes>)>,
    ) -> Result<()> {
        let mut pending = Pending::default();
        for (entry, moved) in entries {
            let entry = match (entry, moved) {
                (Entry::Chunk { id, place }, Some(stored)) => {
                    let length = place.length;
                    let is_same = |known: &Place| known.length == length;
                    let place = match self.index.find(&id).filter(is_same) {
                        Some(known) => {
                            objects.claim.add(known.pack);
                            known
                        }
                        None => self.store_once(objects, &mut pending, id, stored, length, is_same).await?,
                    };
                    Entry::Chunk { id, place }
                }
                // The record that is copied refers to it already, so no collection takes it away.
                (entry, _) => entry,
            };
            self.push(entry, store, objects, &mut pending, extents).await?;
        }
        pending.write(objects).await
    }

    /// Adds what comes next of the blob to its recipe.
    async fn push(
        &mut self,
        entry: Entry,
        store: &dyn Store,
        objects: &mut Objects,
        pending: &mut Pending,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        self.recipe.push(entry);
        if self.recipe.is_full() { self.end_recipe(store, objects, pending, extents).await } else { Ok(()) }
    }

    /// Gives a chunk that no published blob has its place: the one that it has in this upload, if that `serves`, or else a new one.
    async fn store_once(
        &mut self,
        objects: &mut Objects,
        pending: &mut Pending,
        id: ChunkId,
        stored: Bytes,
        length: u32,
        serves: impl Fn(&Place) -> bool,
    ) -> Result<Place> {
        if let Some(place) = self.remembered.find(&id).filter(serves) {
            self.index.tally.add_known(length);
            return Ok(place);
        }
        let place = pending.add(objects, stored, length, self.rules.pack).await?;
        self.index.tally.add_new(length, place.stored);
        self.paged.owns(place.pack);
        if self.remembered.len() < REMEMBERED {
            self.remembered.insert(&id, &place);
        }
        Ok(place)
    }

    async fn end_recipe(
        &mut self,
        store: &dyn Store,
        objects: &mut Objects,
        pending: &mut Pending,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        if self.recipe.is_empty() {
            return Ok(());
        }
        let recipe = std::mem::take(&mut self.recipe);
        for entries in recipe_page::pages(recipe.entries()) {
            let page = recipe_page::encode(entries);
            let (id, length) = (ChunkId::of(&page), u32::try_from(page.len()).unwrap_or(u32::MAX));
            // A page has the same id as a chunk of the same bytes, and is never compressed.
            let is_plain = |place: &Place| place.length == length && place.stored == length;
            let place = match self.index.find(&id).filter(is_plain) {
                Some(place) => {
                    objects.claim.add(place.pack);
                    place
                }
                None => self.store_once(objects, pending, id, page, length, is_plain).await?,
            };
            self.paged.pages.push(Page { id, place });
        }
        let (id, paged) = (Uuid::now_v7(), std::mem::take(&mut self.paged));
        self.written.push(id);
        objects.claim.add(id);
        store.put(&layout::recipe(id), paged.encode(), Condition::None).await?;
        extents.push(Extent::Chunks { recipe: id, length: recipe.length() });
        Ok(())
    }
}

/// Chunks that were given a place in the pack and are not written yet.
#[derive(Default)]
struct Pending {
    pieces: Vec<Bytes>,
    length: u64,
}

impl Pending {
    /// Gives a chunk its place, in another pack if this one is full.
    async fn add(&mut self, objects: &mut Objects, stored: Bytes, length: u32, full: u64) -> Result<Place> {
        let size = stored.len() as u64;
        let begun = objects.current().map_or(0, |pack| pack.length) + self.length;
        if begun > 0 && begun + size > full {
            std::mem::take(self).write(objects).await?;
            objects.seal().await?;
        }
        let pack = objects.open().await?;
        let place = Place {
            pack: pack.object,
            // A pack is shorter than 4 GiB, and so is a chunk.
            offset: u32::try_from(pack.length + self.length).unwrap_or(u32::MAX),
            stored: u32::try_from(size).unwrap_or(u32::MAX),
            length,
        };
        self.length += size;
        self.pieces.push(stored);
        Ok(place)
    }

    async fn write(self, objects: &mut Objects) -> Result<()> {
        if self.pieces.is_empty() { Ok(()) } else { objects.write(self.pieces).await }
    }
}

/// A part of a blob, of which is known whether it is stored.
enum LookedUp {
    Zeros(u64),
    Chunk { id: ChunkId, bytes: Bytes, length: u32, place: Option<Place> },
}

fn look_up(part: Part, index: &ChunkIndex) -> LookedUp {
    match part {
        Part::Zeros(length) => LookedUp::Zeros(length),
        Part::Chunk(bytes) | Part::Inline(bytes) => {
            let id = ChunkId::of(&bytes);
            // No chunk is longer than `MAX_CHUNK`.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let place = index.find(&id).filter(|place| place.length == length);
            LookedUp::Chunk { id, bytes, length, place }
        }
    }
}

fn encode(parts: Vec<Part>, index: &ChunkIndex, run: u64, encoder: &mut Encoder) -> Vec<Encoded> {
    let mut parts: Vec<LookedUp> = parts.into_iter().map(|part| look_up(part, index)).collect();
    let mut places: Vec<(u64, &mut Option<Place>)> = Vec::with_capacity(parts.len());
    for part in &mut parts {
        if let LookedUp::Chunk { length, place, .. } = part {
            places.push(((*length).into(), place));
        }
    }
    let spans: Vec<Span> =
        places.iter().map(|(length, place)| Span { length: *length, place: **place }).collect();
    for number in scattered(&spans, run) {
        if let Some((_, place)) = places.get_mut(number) {
            **place = None;
        }
    }
    let encode = |part| match part {
        LookedUp::Zeros(length) => Encoded::Zeros(length),
        LookedUp::Chunk { id, place: Some(place), .. } => Encoded::Known { id, place },
        LookedUp::Chunk { id, bytes, length, place: None } => {
            Encoded::New { id, stored: encoder.encode(&bytes), length }
        }
    };
    parts.into_iter().map(encode).collect()
}
