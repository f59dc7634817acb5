//! [`Importer`]: decides what each pass does, until there is an image.

use tokio::sync::mpsc;

use super::examine::{Examined, examine};
use super::journal::Entry;
use super::pass::{self, Measured, Pass, PassError};
use super::source::Opened;
use super::spool::Spool;
use super::{ImportError, ImportOptions, Journal, Phase, Progress, Source, SourceError, known};
use crate::artifact::{Annotations, FileName, ImageDescription, LayerShape, PieceReader};
use crate::client::{BlobFeed, BlobUpload, Client, ClientError, Repository, UploadError};
use crate::disk::{Compression, Disk, Format};
use crate::oci::{Algorithm, Digest, ImageReference, MediaType};

/// Pieces that wait to be uploaded.
const QUEUE: usize = 16;

/// How often a source may change under our hands.
const CHANGES: u32 = 3;

/// How often a registry may lose what it was sent.
const REWINDS: u32 = 5;

/// The architecture of a disk that nobody said anything about.
const ARCHITECTURE: &str = "amd64";

/// Imports into one image of one registry.
#[derive(Debug)]
pub struct Importer {
    client: Client,
    target: ImageReference,
    options: ImportOptions,
    journal: Journal,
    progress: Progress,
}

/// An image that was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Its manifest.
    pub digest: Digest,
    /// Its layer.
    pub layer: Digest,
    /// Bytes of the layer.
    pub layer_size: u64,
    /// The disk.
    pub disk: Disk,
    /// The disk's file in the layer.
    pub file: FileName,
    /// Bytes of the file.
    pub file_size: u64,
    /// What the source was compressed with.
    pub compression: Compression,
    /// Bytes of the source.
    pub source_size: u64,
    /// Bytes of the layer that this import sent.
    pub uploaded: u64,
    /// How often the source was read.
    pub passes: u32,
}

/// What a pass does with the bytes.
enum Way {
    /// Measure them, and keep the source, which cannot be read twice. Hash them too, if there is a layer that
    /// begins alike.
    Spool(Option<LayerShape>),
    /// Measure them.
    Measure,
    /// Hash them, because there is a layer that begins alike.
    Compare(LayerShape),
    /// Hash and upload them.
    Upload(LayerShape),
}

/// An upload that may take several passes.
struct Upload {
    session: BlobUpload,
    shape: LayerShape,
    entry: Option<Entry>,
    /// Whether another process began it, perhaps with other bytes.
    is_resumed: bool,
}

/// What is known so far.
#[derive(Default)]
struct State {
    /// Bytes and format of the disk's file, once a pass has measured them.
    certain: Option<(u64, Format)>,
    upload: Option<Upload>,
    /// Whether layers that begin alike were looked for.
    looked: bool,
    /// Whether begun uploads may be gone on with.
    anew: bool,
    passes: u32,
    changes: u32,
    rewinds: u32,
    uploaded: u64,
}

/// The end of one pass.
enum Next {
    /// The layer is in the registry.
    Done(Measured, Digest),
    /// Read the source again.
    Again,
}

impl Importer {
    /// An importer to `target`. Uploads that are broken off are remembered in `journal`.
    #[must_use]
    pub fn new(client: Client, target: ImageReference, options: ImportOptions, journal: Journal) -> Self {
        Self { client, target, options, journal, progress: Progress::default() }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Imports a source. When it fails nothing is named, and after a refusal nothing is left behind; a
    /// broken upload stays, for the next try to go on with.
    pub async fn import(&self, mut source: Source) -> Result<Imported, ImportError> {
        let mut state = State::default();
        let outcome = self.passes(&mut source, &mut state).await;
        if let Some(upload) = state.upload.take() {
            // What can be gone on with is kept, unless the bytes themselves are bad.
            let is_bad = outcome.as_ref().is_err_and(ImportError::is_refusal);
            if is_bad || upload.entry.is_none() {
                upload.cancel().await;
            }
        }
        if let Source::Spooled(spooled) = source {
            spooled.remove().await;
        }
        outcome
    }

    async fn passes(&self, source: &mut Source, state: &mut State) -> Result<Imported, ImportError> {
        loop {
            self.progress.enter(Phase::Preparing, None);
            let opened = match source.open(self.options.limits).await {
                Ok(opened) => opened,
                Err(error) => {
                    self.changed(error, state).await?;
                    continue;
                }
            };
            state.passes += 1;
            let annotations = source.annotations(opened.modified);
            let (identity, length) = (opened.identity.clone(), opened.length);
            let examined = match self.examine(source, opened).await {
                Ok(examined) => examined,
                Err(error) => {
                    self.changed(error, state).await?;
                    continue;
                }
            };
            let (size, format) =
                state.certain.map_or((examined.size, examined.format), |(size, format)| (Some(size), format));
            let file = self.options.file_name(format)?;
            let compression = examined.compression;
            let way = self.way(source, state, &examined, size, &file, &identity).await?;
            let next = match way {
                Way::Upload(shape) => self.upload(state, examined, shape, &identity, length).await,
                way => self.measure(source, state, examined, way, length).await,
            };
            match next {
                Ok(Next::Done(measured, layer)) => {
                    let imported = Imported {
                        digest: layer.clone(),
                        layer_size: LayerShape::new(&file, measured.file_size).layer_size(),
                        layer,
                        disk: measured.disk,
                        file,
                        file_size: measured.file_size,
                        compression,
                        source_size: measured.source_size,
                        uploaded: state.uploaded,
                        passes: state.passes,
                    };
                    return self.name(imported, source.architecture(), annotations).await;
                }
                Ok(Next::Again) => {}
                Err(ImportError::Source(error)) => self.changed(error, state).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn examine(&self, source: &Source, opened: Opened) -> Result<Examined, SourceError> {
        examine(source, opened, self.options.limits).await
    }

    /// Begins anew if the source has changed; any other error is the end.
    async fn changed(&self, error: SourceError, state: &mut State) -> Result<(), ImportError> {
        if !matches!(error, SourceError::Changed { .. }) {
            return Err(error.into());
        }
        state.changes += 1;
        if state.changes > CHANGES {
            return Err(ImportError::Unsteady);
        }
        tracing::info!("{error}: reading it from the beginning");
        if let Some(upload) = state.upload.take() {
            upload.cancel().await;
        }
        state.certain = None;
        state.looked = false;
        Ok(())
    }

    /// What the next pass does.
    async fn way(
        &self,
        source: &Source,
        state: &mut State,
        examined: &Examined,
        size: Option<u64>,
        file: &FileName,
        identity: &str,
    ) -> Result<Way, ImportError> {
        if let Some(size) = size
            && state.upload.is_none()
        {
            let shape = LayerShape::new(file, size);
            state.upload = self.resume(&shape, &examined.head, identity, state.anew).await?;
        }
        let mut known = None;
        if state.upload.is_none() && !std::mem::replace(&mut state.looked, true) {
            let repository = self.repository();
            let sure = state.certain.map(|(size, _)| size).or(examined.sure_size());
            known = known::find(&repository, self.target.tag(), file, sure, &examined.head).await;
        }
        if matches!(source, Source::Pipe(_)) {
            return Ok(Way::Spool(known));
        }
        if let Some(shape) = known {
            return Ok(Way::Compare(shape));
        }
        Ok(size.map_or(Way::Measure, |size| Way::Upload(LayerShape::new(file, size))))
    }

    fn repository(&self) -> Repository {
        self.client.repository_of(&self.target)
    }

    /// The upload of the same layer that an import before began.
    async fn resume(
        &self,
        shape: &LayerShape,
        head: &[u8],
        identity: &str,
        anew: bool,
    ) -> Result<Option<Upload>, ImportError> {
        let Some(mut entry) = self.journal_entry(shape, head, identity) else { return Ok(None) };
        let Some(session) = entry.session().filter(|_| !anew) else { return Ok(None) };
        let resumed = BlobUpload::resume(self.repository(), session).await.map_err(ImportError::Push)?;
        Ok(resumed.filter(|session| session.offset() > 0 && session.offset() <= shape.layer_size()).map(
            |session| {
                tracing::info!(bytes = session.offset(), "going on with an upload");
                Upload { session, shape: shape.clone(), entry: Some(entry), is_resumed: true }
            },
        ))
    }

    fn journal_entry(&self, shape: &LayerShape, head: &[u8], identity: &str) -> Option<Entry> {
        let begins = Digest::of(Algorithm::Sha256, head);
        let what =
            format!("{}/{}\n{shape:?}\n{begins}\n{identity}", self.target.registry, self.target.repository);
        self.journal.entry(&what)
    }

    /// A pass that uploads nothing of the layer.
    async fn measure(
        &self,
        source: &mut Source,
        state: &mut State,
        examined: Examined,
        way: Way,
        length: Option<u64>,
    ) -> Result<Next, ImportError> {
        self.progress.enter(Phase::Measuring, length);
        let (mut pass, reader) = self.pass(examined);
        let (measured, spool) = match way {
            Way::Spool(shape) => {
                pass.shape = shape;
                let (measured, spool) = self.spool(reader, pass).await?;
                (measured, Some(spool))
            }
            Way::Compare(shape) => {
                pass.shape = Some(shape);
                (pass::run(reader, pass, &self.options).await?, None)
            }
            Way::Measure | Way::Upload(_) => (pass::run(reader, pass, &self.options).await?, None),
        };
        state.certain = Some((measured.file_size, measured.disk.format));
        let there = match &measured.layer {
            Some(layer) => {
                self.repository().has_blob(layer).await.map_err(ImportError::Push)?.then_some(layer)
            }
            None => None,
        };
        match (there.cloned(), spool) {
            (Some(layer), spool) => {
                if let Some(spool) = spool {
                    warn_about(spool.cancel().await);
                }
                Ok(Next::Done(measured, layer))
            }
            (None, Some(spool)) => {
                let digest = measured.source_digest.clone();
                let digest =
                    digest.ok_or_else(|| ImportError::Broken("the source was not kept".to_owned()))?;
                let spooled = spool.finish(self.repository(), digest, measured.source_size).await;
                *source = Source::Spooled(spooled.map_err(ImportError::Push)?);
                Ok(Next::Again)
            }
            (None, None) => Ok(Next::Again),
        }
    }

    /// A pass that keeps the source's bytes in the registry.
    async fn spool(
        &self,
        reader: PieceReader<SourceError>,
        mut pass: Pass,
    ) -> Result<(Measured, Spool), ImportError> {
        let (sender, kept) = mpsc::channel(QUEUE);
        pass.spool = Some(sender);
        let mut spool = Spool::begin(self.repository()).await.map_err(ImportError::Push)?;
        let (measured, sent) = tokio::join!(pass::run(reader, pass, &self.options), spool.keep(kept));
        let error = match (measured, sent) {
            (Ok(measured), Ok(())) => return Ok((measured, spool)),
            (Err(PassError::Stopped) | Ok(_), Err(error)) => ImportError::Push(error),
            (Err(error), _) => error.into(),
        };
        warn_about(spool.cancel().await);
        Err(error)
    }

    /// A pass that uploads the layer.
    async fn upload(
        &self,
        state: &mut State,
        examined: Examined,
        shape: LayerShape,
        identity: &str,
        length: Option<u64>,
    ) -> Result<Next, ImportError> {
        self.progress.enter(Phase::Uploading, length);
        let mut upload = match state.upload.take() {
            Some(upload) if upload.shape == shape => upload,
            other => {
                if let Some(other) = other {
                    other.cancel().await;
                }
                let session = BlobUpload::begin(self.repository()).await.map_err(ImportError::Push)?;
                let mut entry = self.journal_entry(&shape, &examined.head, identity);
                if let Some(entry) = &mut entry {
                    entry.remember(session.session());
                }
                Upload { session, shape: shape.clone(), entry, is_resumed: false }
            }
        };
        let (mut pass, reader) = self.pass(examined);
        let (sender, pieces) = mpsc::channel(QUEUE);
        pass.layer = Some(sender);
        pass.shape = Some(shape.clone());
        let feed = BlobFeed::new(pieces, shape.layer_size(), self.progress.upload_counter());
        let before = upload.session.offset();
        let (measured, sent) =
            tokio::join!(pass::run(reader, pass, &self.options), upload.session.send(feed));
        state.uploaded += upload.session.offset().saturating_sub(before);
        if let Some(entry) = &mut upload.entry {
            entry.remember(upload.session.session());
        }
        let measured = match (measured, sent) {
            (Err(PassError::Stopped), Err(UploadError::Rewind)) => {
                state.rewinds += 1;
                state.upload = Some(upload);
                if state.rewinds > REWINDS {
                    return Err(ImportError::Unreliable);
                }
                tracing::info!("the registry lost a part of the upload: reading the source again");
                return Ok(Next::Again);
            }
            (
                Err(PassError::Stopped) | Ok(Measured { layer: Some(_), .. }),
                Err(UploadError::Client(error)),
            ) => {
                state.upload = Some(upload);
                return Err(ImportError::Push(error));
            }
            (Err(error), _) => {
                state.upload = Some(upload);
                return Err(error.into());
            }
            (Ok(measured), _) => measured,
        };
        state.certain = Some((measured.file_size, measured.disk.format));
        let Some(layer) = measured.layer.clone().filter(|_| self.is_named_right(&shape, &measured)) else {
            // Told wrong; now it is known.
            upload.cancel().await;
            return Ok(Next::Again);
        };
        self.progress.enter(Phase::Finishing, None);
        match upload.session.finish(&layer).await {
            Ok(()) => {
                upload.forget();
                Ok(Next::Done(measured, layer))
            }
            Err(error) if upload.is_resumed => {
                tracing::info!(%error, "what was begun is of no use: uploading from the beginning");
                upload.cancel().await;
                state.anew = true;
                Ok(Next::Again)
            }
            Err(error) => {
                state.upload = Some(upload);
                Err(ImportError::Push(error))
            }
        }
    }

    /// Whether the file has the name that its format wants.
    fn is_named_right(&self, shape: &LayerShape, measured: &Measured) -> bool {
        let name = self.options.file_name(measured.disk.format);
        name.is_ok_and(|name| LayerShape::new(&name, measured.file_size) == *shape)
    }

    fn pass(&self, examined: Examined) -> (Pass, PieceReader<SourceError>) {
        let Examined { reader, compression, .. } = examined;
        let progress = self.progress.clone();
        (Pass { compression, shape: None, layer: None, spool: None, progress }, reader)
    }

    /// Writes config and manifest, and names the image.
    async fn name(
        &self,
        imported: Imported,
        architecture: Option<String>,
        annotations: Annotations,
    ) -> Result<Imported, ImportError> {
        self.progress.enter(Phase::Finishing, None);
        let options = &self.options;
        let description = ImageDescription {
            disk: imported.disk,
            file_size: imported.file_size,
            architecture: options
                .architecture
                .clone()
                .or(architecture)
                .unwrap_or_else(|| ARCHITECTURE.to_owned()),
            layer: imported.layer.clone(),
            layer_size: imported.layer_size,
            annotations,
            more_annotations: options.annotations.clone(),
            more_labels: options.labels.clone(),
            instancetype: options.instancetype.clone(),
            preference: options.preference.clone(),
        };
        let written = description.write().map_err(|error| ImportError::Broken(error.to_string()))?;
        let repository = self.repository();
        repository.push_document(written.config).await.map_err(ImportError::Push)?;
        let media_type: MediaType =
            MediaType::IMAGE.parse().map_err(|_| ImportError::Broken("no media type".to_owned()))?;
        repository
            .put_manifest(&self.target.reference, &media_type, written.manifest)
            .await
            .map_err(ImportError::Push)?;
        Ok(Imported { digest: written.digest, ..imported })
    }
}

impl Upload {
    /// Takes the upload back.
    async fn cancel(self) {
        warn_about(self.session.cancel().await);
        if let Some(entry) = self.entry {
            entry.forget();
        }
    }

    fn forget(self) {
        if let Some(entry) = self.entry {
            entry.forget();
        }
    }
}

/// An upload that cannot be taken back is the registry's to time out.
fn warn_about(outcome: Result<(), ClientError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot cancel the upload; the registry will time it out");
    }
}

impl From<PassError> for ImportError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Source(error) => Self::Source(error),
            PassError::Refused(refusal) => Self::Refused(refusal),
            PassError::Checksum(mismatch) => Self::Checksum {
                expected: mismatch.expected.to_string(),
                actual: mismatch.actual.to_string(),
            },
            PassError::Stopped => Self::Broken("the import stopped".to_owned()),
            PassError::Broken(reason) => Self::Broken(reason),
        }
    }
}
