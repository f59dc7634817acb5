//! [`Base`]: a file that has much of a disk in it already, such as the version before.
//!
//! A registry of DVCR tells which chunks a layer is made of. The file is cut in the same way, and what both have is taken out
//! of the file; only the rest is fetched. What comes out is hashed as a whole like any other layer, so neither the registry
//! nor the file is trusted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::spawn_blocking;

use super::{ArtifactError, ImageLayer};
use crate::chunk::{ChunkId, Listed, Part, Sizes, Splitter, zeros};
use crate::client::{ClientError, Connections, Repository};

/// Bytes that are read or fetched at once.
const PIECE: usize = 1 << 20;

/// Bytes of one step, at most: so much memory each takes that is under way.
const STEP: u64 = 8 << 20;

/// A file that has much of a disk in it already.
#[derive(Debug, Clone)]
pub struct Base {
    path: Arc<Path>,
    /// Whether it merely is there, so that without it all is well too.
    is_chance: bool,
    /// Set where a registry says what a layer is made of.
    fetched: Arc<OnceLock<AtomicU64>>,
    /// Whether something of a layer is from the file.
    is_used: Arc<AtomicBool>,
}

/// The layer's bytes.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, ArtifactError>>;

/// How a part of a layer is come by.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Zeros(u64),
    /// From the file.
    Copy(Range<u64>),
    /// From the layer itself.
    Fetch(Range<u64>),
}

impl Base {
    /// The file at `path`, which must be readable.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path: path.into(), is_chance: false, fetched: Arc::default(), is_used: Arc::default() }
    }

    /// The file at `path`, which nobody has asked for: where it cannot be read, the disk is fetched as if it were not there.
    #[must_use]
    pub fn by_chance(path: PathBuf) -> Self {
        Self { is_chance: true, ..Self::new(path) }
    }

    /// Bytes that the file did not have, so far; `None` if the registry did not say what a layer is made of.
    #[must_use]
    pub fn fetched(&self) -> Option<u64> {
        Some(self.fetched.get()?.load(Ordering::Relaxed))
    }

    /// Begins to read a layer; `None` if the registry does not say what it is made of, or the file cannot be read and need not.
    pub(super) async fn read(
        &self,
        repository: &Repository,
        layer: &ImageLayer,
        connections: Connections,
    ) -> Result<Option<Pieces>, ArtifactError> {
        let listing = match repository.chunks(&layer.digest, layer.size).await {
            Ok(Some(listing)) => listing,
            Ok(None) => {
                tracing::warn!(layer = %layer.digest, "the registry does not tell what the layer is made of: all of it is fetched");
                return Ok(None);
            }
            Err(error) => {
                // It is a help and no more.
                tracing::warn!(%error, "cannot ask what a layer is made of: all of it is fetched");
                return Ok(None);
            }
        };
        let path = Arc::clone(&self.path);
        let found = blocking(move || {
            let file = File::open(&path)?;
            let known = known(&file, &listing)?;
            Ok((Arc::new(file), plan(&listing, &known)))
        });
        let (file, steps) = match found.await {
            Ok(found) => found,
            Err(error) if self.is_chance => {
                tracing::warn!(%error, path = %self.path.display(), "cannot read the file that is replaced: all of the layer is fetched");
                return Ok(None);
            }
            Err(error) => return Err(self.failed(error)),
        };
        self.fetched.get_or_init(AtomicU64::default);
        if steps.iter().any(|step| matches!(step, Step::Copy(_))) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        let (this, repository, layer) = (self.clone(), repository.clone(), layer.clone());
        let pieces = stream::iter(steps).map(move |step| {
            let (this, repository, layer) = (this.clone(), repository.clone(), layer.clone());
            let file = Arc::clone(&file);
            async move { this.perform(step, file, &repository, &layer).await }
        });
        Ok(Some(pieces.buffered(connections.0.max(2)).try_flatten().boxed()))
    }

    async fn perform(
        &self,
        step: Step,
        file: Arc<File>,
        repository: &Repository,
        layer: &ImageLayer,
    ) -> Result<Pieces, ArtifactError> {
        let bytes = match step {
            Step::Zeros(length) => return Ok(stream::iter(zeros(length).map(Ok)).boxed()),
            Step::Copy(range) => {
                let read = blocking(move || {
                    let mut bytes = BytesMut::zeroed(usize::try_from(range.end - range.start).unwrap_or(0));
                    file.read_exact_at(&mut bytes, range.start)?;
                    Ok(bytes.freeze())
                });
                read.await.map_err(|error| self.failed(error))?
            }
            Step::Fetch(range) => {
                if let Some(fetched) = self.fetched.get() {
                    fetched.fetch_add(range.end - range.start, Ordering::Relaxed);
                }
                let part = repository.blob_part(&layer.digest, range).await?;
                part.ok_or_else(|| ArtifactError::Broken(format!("{} has no ranges", layer.digest)))?
            }
        };
        Ok(stream::iter([Ok(bytes)]).boxed())
    }

    /// What a layer that has come out wrong means where some of it is from the file.
    pub(super) fn blamed(&self, error: ArtifactError) -> ArtifactError {
        match error {
            ArtifactError::Client(ClientError::WrongDigest { .. })
                if self.is_used.load(Ordering::Relaxed) =>
            {
                let told = "with what it has the disk comes out wrong: it was changed meanwhile, or the image is damaged; pull without a base to know";
                self.failed(io::Error::other(told))
            }
            error => error,
        }
    }

    fn failed(&self, error: io::Error) -> ArtifactError {
        ArtifactError::Base { path: self.path.to_path_buf(), error }
    }
}

/// Where the file has chunks of the listing.
fn known(mut file: &File, listing: &[Listed]) -> io::Result<HashMap<ChunkId, u64>> {
    // The length of each, and its place once it is found. Of chunks that are not wanted nothing is kept, however large the
    // file is.
    let mut places: HashMap<ChunkId, (u64, Option<u64>)> = HashMap::new();
    for entry in listing {
        if let Listed::Chunk { id, length } = entry {
            places.insert(*id, (*length, None));
        }
    }
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let mut position = 0;
    let mut pass = |parts: Vec<Part>| {
        for part in parts {
            match part {
                Part::Zeros(length) => position += length,
                Part::Chunk(bytes) | Part::Inline(bytes) => {
                    let found = bytes.len() as u64;
                    if let Some((length, place)) = places.get_mut(&ChunkId::of(&bytes))
                        && *length == found
                    {
                        place.get_or_insert(position);
                    }
                    position += found;
                }
            }
        }
    };
    let mut splitter = Splitter::new(Sizes::STORED);
    loop {
        let mut piece = BytesMut::zeroed(PIECE);
        let length = file.read(&mut piece)?;
        if length == 0 {
            break;
        }
        piece.truncate(length);
        pass(splitter.update(&piece.freeze()));
    }
    pass(splitter.finish());
    Ok(places.into_iter().filter_map(|(id, (_, place))| Some((id, place?))).collect())
}

/// The steps that make the layer.
fn plan(listing: &[Listed], known: &HashMap<ChunkId, u64>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut position = 0;
    for entry in listing {
        let end = position + entry.length();
        let place = match entry {
            Listed::Chunk { id, length } => {
                known.get(id).filter(|place| place.checked_add(*length).is_some())
            }
            _ => None,
        };
        match (entry, place) {
            (Listed::Zeros(length), _) => steps.push(Step::Zeros(*length)),
            (_, Some(&place)) => {
                let range = place..place + entry.length();
                match steps.last_mut() {
                    Some(Step::Copy(last)) if goes_on(last, &range) => last.end = range.end,
                    _ => steps.push(Step::Copy(range)),
                }
            }
            (_, None) => fetch(&mut steps, position..end),
        }
        position = end;
    }
    steps
}

/// Adds what is to be fetched, in steps that are not too large.
fn fetch(steps: &mut Vec<Step>, mut range: Range<u64>) {
    if let Some(Step::Fetch(last)) = steps.last_mut()
        && goes_on(last, &range)
    {
        last.end = range.end;
        return;
    }
    while range.start < range.end {
        let end = range.end.min(range.start + STEP);
        steps.push(Step::Fetch(range.start..end));
        range.start = end;
    }
}

/// Whether a range follows another one, and both are no more than a step.
fn goes_on(last: &Range<u64>, next: &Range<u64>) -> bool {
    last.end == next.start && next.end - last.start <= STEP
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn chunk(number: u8) -> Listed {
        Listed::Chunk { id: ChunkId::of(&[number]), length: 100 }
    }

    #[test]
    fn neighbours_are_copied_and_fetched_together() {
        let known =
            HashMap::from([(ChunkId::of(&[1]), 500), (ChunkId::of(&[2]), 600), (ChunkId::of(&[3]), 0)]);
        let listing = [
            Listed::Other(512),
            chunk(1),
            chunk(2),
            chunk(3),
            Listed::Zeros(1000),
            chunk(9),
            chunk(8),
            chunk(1),
        ];
        let steps = plan(&listing, &known);
        assert_eq!(
            steps,
            [
                Step::Fetch(0..512),
                Step::Copy(500..700),
                Step::Copy(0..100),
                Step::Zeros(1000),
                Step::Fetch(1812..2012),
                Step::Copy(500..600),
            ]
        );
    }

    #[test]
    fn what_is_fetched_at_once_is_bounded() {
        let steps = plan(&[Listed::Other(3 * STEP + 1)], &HashMap::new());
        let lengths: Vec<u64> = steps
            .iter()
            .map(|step| match step {
                Step::Fetch(range) => range.end - range.start,
                _ => 0,
            })
            .collect();
        assert_eq!(lengths, [STEP, STEP, STEP, 1]);
    }

    #[test]
    fn chunks_are_found_where_they_are_in_the_file() {
        let disk: Vec<u8> =
            (0..3_000_000_u32).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut splitter = Splitter::new(Sizes::STORED);
        let mut parts = splitter.update(&disk.clone().into());
        parts.extend(splitter.finish());
        let listing: Vec<Listed> = parts
            .iter()
            .map(|part| match part {
                Part::Zeros(length) => Listed::Zeros(*length),
                Part::Chunk(bytes) | Part::Inline(bytes) => {
                    Listed::Chunk { id: ChunkId::of(bytes), length: bytes.len() as u64 }
                }
            })
            .collect();
        let mut file = tempfile::tempfile().unwrap();
        // Something else stands before it.
        file.write_all(&[7; 12_288]).unwrap();
        file.write_all(&disk).unwrap();
        file.rewind().unwrap();
        let known = known(&file, &listing).unwrap();
        let copied: u64 = plan(&listing, &known)
            .iter()
            .map(|step| match step {
                Step::Copy(range) => range.end - range.start,
                _ => 0,
            })
            .sum();
        assert!(copied > disk.len() as u64 * 9 / 10, "{copied} of {}", disk.len());
        for (id, place) in known {
            let length = listing.iter().find_map(|entry| match entry {
                Listed::Chunk { id: other, length } if *other == id => Some(*length),
                _ => None,
            });
            let mut bytes = vec![0; usize::try_from(length.unwrap()).unwrap()];
            file.read_exact_at(&mut bytes, place).unwrap();
            assert_eq!(ChunkId::of(&bytes), id);
        }
    }
}
