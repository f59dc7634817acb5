//! [`DiskStream`]: the content of a disk on a registry, taken out of its layers and verified on the way.
//!
//! Three stages run at once, joined by short channels: ranges are fetched, hashed, and taken out of
//! compression and tar. The stream ends well only when every layer was read to its end, had the digest
//! that the manifest gives it, and held no second disk; whoever wrote the content elsewhere publishes it
//! only then.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::base::{Base, Pieces};
use super::{ArtifactError, DiskFile, ImageLayer, PieceReader, RemoteImage, SelectionError, unpack};
use crate::client::{BlobReader, ClientError, Connections, Repository};
use crate::disk::{Compression, Expander, Limits, Refusal};
use crate::oci::Hasher;

/// Pieces that wait between two stages. Few, because whoever only looks at the first bytes throws the rest away.
const QUEUE: usize = 4;

/// Bytes of a piece of content.
const PIECE: usize = 256 << 10;

/// Bytes that tell a compression.
const DETECT: usize = 512;

/// How many threads take blocks out of compression.
const THREADS: u32 = 2;

/// The content of a disk.
#[derive(Debug)]
pub struct DiskStream {
    /// Its file.
    pub file: DiskFile,
    /// The content in order. The last item is an error if the image turned out to be bad.
    pub content: mpsc::Receiver<Result<Bytes, ArtifactError>>,
}

/// How layers are fetched.
#[derive(Debug, Clone, Default)]
pub struct Fetch {
    /// Ranges that are fetched at once.
    pub connections: Connections,
    /// A file that has much of the disk in it already.
    pub base: Option<Base>,
}

impl Fetch {
    /// Over so many connections, and all of it.
    #[must_use]
    pub fn over(connections: Connections) -> Self {
        Self { connections, base: None }
    }

    async fn open(&self, repository: &Repository, layer: &ImageLayer) -> Result<Pieces, ArtifactError> {
        if let Some(base) = &self.base
            && let Some(pieces) = base.read(repository, layer, self.connections).await?
        {
            return Ok(pieces);
        }
        let (repository, digest) = (repository.clone(), layer.digest.clone());
        let blob = BlobReader::open(repository, digest, layer.size, self.connections).await?;
        let pieces =
            stream::try_unfold(blob, async |mut blob| Ok(blob.next().await?.map(|piece| (piece, blob))));
        Ok(pieces.boxed())
    }
}

/// Who waits for the disk's file to be found, until it is.
type Found = Arc<Mutex<Option<oneshot::Sender<Result<DiskFile, ArtifactError>>>>>;

fn take(found: &Found) -> Option<oneshot::Sender<Result<DiskFile, ArtifactError>>> {
    found.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl RemoteImage {
    /// Begins to read the disk. Answers when its file is found.
    pub async fn disk(&self, limits: Limits, fetch: Fetch) -> Result<DiskStream, ArtifactError> {
        let (sender, content) = mpsc::channel(QUEUE);
        let (answer, file) = oneshot::channel();
        let found: Found = Arc::new(Mutex::new(Some(answer)));
        let image = self.clone();
        tokio::spawn(async move {
            let output = Output { found: Arc::clone(&found), content: sender.clone() };
            let read = tokio::select! {
                read = image.read_layers(&output, limits, &fetch) => read,
                () = sender.closed() => return,
            };
            let error = match read {
                Ok(()) => SelectionError::NotAnImage {
                    image: format!("{}/{}", image.repository.registry(), image.repository.name()),
                    reason: "there is no file under disk/ in it".to_owned(),
                }
                .into(),
                Err(error) => {
                    if found.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                        // Whoever does not listen any more has a reason of its own.
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                    error
                }
            };
            if let Some(answer) = take(&found) {
                let _ = answer.send(Err(error));
            }
        });
        let file =
            file.await.map_err(|_| ArtifactError::Broken("the reader of layers died".to_owned()))??;
        Ok(DiskStream { file, content })
    }

    async fn read_layers(&self, output: &Output, limits: Limits, fetch: &Fetch) -> Result<(), ArtifactError> {
        let mut file = None;
        for layer in &self.layers {
            let unpacked = self.read_layer(layer, file.clone(), output.clone(), limits, fetch).await?;
            file = file.or(unpacked);
        }
        Ok(())
    }

    async fn read_layer(
        &self,
        layer: &ImageLayer,
        found: Option<DiskFile>,
        output: Output,
        limits: Limits,
        fetch: &Fetch,
    ) -> Result<Option<DiskFile>, ArtifactError> {
        let mut pieces = fetch.open(&self.repository, layer).await?;
        let (fetched, to_hash) = mpsc::channel(QUEUE);
        let (hashed, to_unpack) = mpsc::channel(QUEUE);
        let hash = spawn_blocking({
            let layer = layer.clone();
            move || verify(&layer, to_hash, &hashed)
        });
        let unpacking = spawn_blocking(move || {
            let reader = PieceReader::new(to_unpack);
            let failure = reader.failure();
            let unpacked = output.unpack(reader, found.as_ref(), limits);
            match (unpacked, failure.get().copied()) {
                // The cause is with whoever fetches or hashes.
                (_, Some(Stopped)) => None,
                (unpacked, None) => Some(unpacked),
            }
        });
        let mut outcome = Ok(());
        loop {
            match pieces.try_next().await {
                Ok(Some(piece)) => {
                    if fetched.send(Ok(piece)).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    let _ = fetched.send(Err(Stopped)).await;
                    break;
                }
            }
        }
        drop(fetched);
        let died = |error: tokio::task::JoinError| ArtifactError::Broken(error.to_string());
        let (verified, unpacked) = (hash.await.map_err(died)?, unpacking.await.map_err(died)?);
        let verified = verified.map_err(|error| match &fetch.base {
            Some(base) => base.blamed(error),
            None => error,
        });
        outcome?;
        match unpacked {
            // The unpacker's own complaint comes before that of a hash which it kept from ending.
            Some(Err(error)) => Err(error),
            Some(Ok(file)) => verified.map(|()| file),
            None => {
                verified?;
                Err(ArtifactError::Broken(format!("the reading of {} stopped", layer.digest)))
            }
        }
    }
}

/// The stage before has stopped, and says itself why.
#[derive(Debug, Clone, Copy)]
struct Stopped;

/// Hands pieces on, hashes them, and says at the end whether they were the layer.
fn verify(
    layer: &ImageLayer,
    mut pieces: mpsc::Receiver<Result<Bytes, Stopped>>,
    next: &mpsc::Sender<Result<Bytes, Stopped>>,
) -> Result<(), ArtifactError> {
    let mut hasher = Hasher::new(layer.digest.algorithm());
    while let Some(piece) = pieces.blocking_recv() {
        let Ok(piece) = piece else {
            let _ = next.blocking_send(Err(Stopped));
            return Ok(());
        };
        hasher.update(&piece);
        if next.blocking_send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
    let actual = hasher.finish();
    if actual == layer.digest {
        return Ok(());
    }
    // Before the end of the stream is seen, so that nobody takes it for a good one.
    let _ = next.blocking_send(Err(Stopped));
    let what = "a layer".to_owned();
    Err(ClientError::WrongDigest { what, expected: layer.digest.clone(), actual }.into())
}

/// Where the disk goes.
#[derive(Clone)]
struct Output {
    found: Found,
    content: mpsc::Sender<Result<Bytes, ArtifactError>>,
}

impl Output {
    /// Takes the disk out of a layer, whatever that is compressed with: importers go by content too.
    fn unpack(
        &self,
        mut layer: PieceReader<Stopped>,
        found: Option<&DiskFile>,
        limits: Limits,
    ) -> Result<Option<DiskFile>, ArtifactError> {
        let compression = layer.peek(DETECT).map_or(Compression::None, Compression::detect);
        let expanded = Expander::new(compression, layer, limits, THREADS).map_err(as_error)?;
        let unpacked = unpack(expanded, found, |file, content| {
            if let Some(found) = take(&self.found) {
                let _ = found.send(Ok(file.clone()));
            }
            self.hand_on(file, content)
        });
        match unpacked {
            Ok(unpacked) => Ok(unpacked.file),
            Err(super::UnpackError::Io(error)) => Err(as_error(error)),
            Err(error) => Err(error.into()),
        }
    }

    fn hand_on(&self, file: &DiskFile, content: &mut dyn Read) -> io::Result<()> {
        let mut left = file.size;
        while left > 0 {
            let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            let mut piece = BytesMut::zeroed(length);
            content.read_exact(&mut piece)?;
            left -= length as u64;
            if self.content.blocking_send(Ok(piece.freeze())).is_err() {
                return Err(io::Error::other("nobody takes the disk any more"));
            }
        }
        Ok(())
    }
}

/// The refusal that a reader gave as an I/O error, or that error.
fn as_error(error: io::Error) -> ArtifactError {
    match error.downcast::<Refusal>() {
        Ok(refusal) => refusal.into(),
        Err(error) => super::UnpackError::Io(error).into(),
    }
}
