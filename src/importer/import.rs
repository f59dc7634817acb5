//! [`Importer`]: decides what each pass does, until there is an image.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, mpsc};

use super::examine::{Examined, examine};
use super::journal::Entry;
use super::normalise::{Staged, is_in};
use super::pass::{self, Measured, Pass, PassError};
use super::source::{NormalisedSource, Origin};
use super::spool::Spool;
use super::upload::{Identity, Left, Upload, left, remember, warn_about};
use super::{ImportError, ImportOptions, Journal, Phase, Progress, Source, SourceError, known};
use crate::artifact::{Annotations, FileName, ImageDescription, LayerShape, PieceReader};
use crate::client::{BlobFeed, Client, Held, Repository, UploadError};
use crate::disk::{Compression, Disk, Format};
use crate::oci::{Digest, ImageReference, MediaType};
use crate::qemu_img::is_possible;

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
    stop: Notify,
    is_abandoned: AtomicBool,
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
    /// Bytes of the layer that were not sent, because the registry had them in other images.
    pub copied: u64,
    /// How often the source was read.
    pub passes: u32,
}

/// What a pass does with the bytes.
enum Way {
    /// Measure them, and keep the source, which cannot be read twice. Hash them too, if there is a layer that
    /// begins alike.
    Spool(Option<LayerShape>),
    /// Measure them. Hash them too, if there is a layer that begins alike.
    Measure(Option<LayerShape>),
    /// Hash and upload them.
    Upload(LayerShape),
}

/// What is known so far.
#[derive(Default)]
struct State {
    /// Bytes and format of the disk's file, once a pass has measured them.
    certain: Option<(u64, Format)>,
    upload: Option<Upload>,
    spool: Option<Spool>,
    /// The layer is in the registry by this import or one before, and was not named yet.
    unnamed: Option<Entry>,
    /// Whether layers that begin alike were looked for.
    looked: bool,
    /// Whether the source is in the format that is asked for by now.
    is_normalised: bool,
    /// Whether what an import before has left is of no use.
    anew: bool,
    passes: u32,
    changes: u32,
    rewinds: u32,
    uploaded: u64,
    copied: u64,
    /// What the registry has in other images, once it was asked.
    held: Option<Arc<Held>>,
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
        Self {
            client,
            target,
            options,
            journal,
            progress: Progress::default(),
            stop: Notify::new(),
            is_abandoned: AtomicBool::new(false),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Makes a running import, or the next one, end with [`ImportError::Stopped`].
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// As [`Importer::stop`], and what was uploaded so far is taken back: nobody will go on with it.
    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Imports a source. When it fails nothing is named, and after a refusal nothing is left behind; a
    /// broken upload stays, for the next try to go on with.
    pub async fn import(&self, mut source: Source) -> Result<Imported, ImportError> {
        let mut state = State::default();
        let outcome = tokio::select! {
            outcome = self.passes(&mut source, &mut state) => outcome,
            () = self.stop.notified() => Err(ImportError::Stopped),
        };
        if let Some(upload) = state.upload.take() {
            // What can be gone on with is kept, unless the bytes themselves are bad.
            let is_bad = outcome.as_ref().is_err_and(ImportError::is_refusal);
            let is_abandoned = self.is_abandoned.load(Ordering::Relaxed);
            if is_bad || is_abandoned || upload.entry.is_none() {
                upload.cancel().await;
            }
        }
        if let Some(spool) = state.spool.take() {
            warn_about(spool.cancel().await);
        }
        if let Source::Spooled(spooled) = source {
            spooled.remove().await;
        }
        if let Some(entry) = state.unnamed.take()
            && outcome.is_ok()
        {
            entry.forget();
        }
        outcome
    }

    async fn passes(&self, source: &mut Source, state: &mut State) -> Result<Imported, ImportError> {
        loop {
            match self.one_pass(source, state).await {
                Ok(Some(imported)) => return Ok(imported),
                Ok(None) => {}
                Err(ImportError::Source(error @ SourceError::Changed { .. })) => {
                    state.changes += 1;
                    if state.changes > CHANGES {
                        return Err(ImportError::Unsteady);
                    }
                    tracing::info!("{error}: reading it from the beginning");
                    source.renew();
                    if let Some(upload) = state.upload.take() {
                        upload.cancel().await;
                    }
                    state.certain = None;
                    state.looked = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the source once; `None` if it has to be read again.
    async fn one_pass(
        &self,
        source: &mut Source,
        state: &mut State,
    ) -> Result<Option<Imported>, ImportError> {
        self.progress.enter(Phase::Preparing, None);
        if let Some(format) = self.options.format
            && let Some(normalised) = self.normalise(source, state, format).await?
        {
            *source = Source::Normalised(Box::new(normalised));
            state.is_normalised = true;
            self.progress.enter(Phase::Preparing, None);
        }
        let mut opened = source.open(self.options.limits).await?;
        let _reading = opened.reading.take();
        state.passes += 1;
        let annotations = source.annotations(opened.modified);
        let (identity, length) = (opened.identity.clone(), opened.length);
        let examined = examine(source, opened, self.options.limits).await?;
        let compression = examined.compression;
        let next = match self.way(source, state, &examined, &identity).await? {
            Way::Upload(shape) => self.upload(state, examined, shape, &identity, length).await?,
            way => self.measure(source, state, examined, way, length).await?,
        };
        let Next::Done(measured, layer) = next else { return Ok(None) };
        let file = self.options.file_name(measured.disk.format)?;
        let (compression, source_size) = match source {
            Source::Normalised(source) => (source.origin.compression, source.origin.size),
            _ => (compression, measured.source_size),
        };
        let imported = Imported {
            digest: layer.clone(),
            layer_size: LayerShape::new(&file, measured.file_size).layer_size(),
            layer,
            disk: measured.disk,
            file,
            file_size: measured.file_size,
            compression,
            source_size,
            uploaded: state.uploaded,
            copied: state.copied,
            passes: state.passes,
        };
        self.name(imported, source.architecture(), annotations).await.map(Some)
    }

    /// The source in another format; `None` if it is in that format already.
    async fn normalise(
        &self,
        source: &mut Source,
        state: &mut State,
        format: Format,
    ) -> Result<Option<NormalisedSource>, ImportError> {
        if state.is_normalised {
            return Ok(None);
        }
        let mut opened = source.open(self.options.limits).await?;
        let _reading = opened.reading.take();
        let (annotations, length) = (source.annotations(opened.modified), opened.length);
        let examined = examine(source, opened, self.options.limits).await?;
        let compression = examined.compression;
        let is_in = is_in(examined.format, format);
        // A pipe has been looked at by now.
        let is_plain = compression == Compression::None && !matches!(source, Source::Pipe(_));
        if is_in && is_plain && !examined.may_be_fixed_vhd() {
            return Ok(None);
        }
        if !is_in {
            // Before all of the source is fetched.
            is_possible(examined.format, format).await?;
        }
        state.passes += 1;
        self.progress.enter(Phase::Measuring, length);
        let (mut pass, reader) = self.pass(examined, state.is_normalised);
        let (sender, pieces) = mpsc::channel(QUEUE);
        pass.disk = Some(sender);
        let staged = Staged::create()?;
        let (measured, staged) = tokio::join!(pass::run(reader, pass), staged.fill(pieces));
        // Where the disk found no place, that is why the pass stopped.
        let staged = staged?;
        let measured = measured?;
        self.progress.enter(Phase::Converting, None);
        let origin = Origin {
            annotations,
            architecture: source.architecture(),
            compression,
            size: measured.source_size,
        };
        staged.convert(&measured.disk, format, origin).await.map(Some)
    }

    /// What the next pass does.
    async fn way(
        &self,
        source: &Source,
        state: &mut State,
        examined: &Examined,
        identity: &str,
    ) -> Result<Way, ImportError> {
        let (size, format) =
            state.certain.map_or((examined.size, examined.format), |(size, format)| (Some(size), format));
        let file = self.options.file_name(format)?;
        if let Some(upload) = &state.upload {
            return Ok(Way::Upload(upload.shape.clone()));
        }
        let shape = size.map(|size| LayerShape::new(&file, size));
        if let Some(shape) = shape.as_ref().filter(|_| !state.anew) {
            let identity = Identity::new(&self.repository(), shape, &examined.head, identity);
            match left(&self.journal, &identity, self.repository(), shape).await {
                Left::Upload(upload) => {
                    state.upload = Some(*upload);
                    return Ok(Way::Upload(shape.clone()));
                }
                Left::Layer(entry) => {
                    // Should it be gone again, the pass after this one uploads it.
                    state.unnamed = Some(entry);
                    state.anew = true;
                    return Ok(Way::Measure(Some(shape.clone())));
                }
                Left::Nothing => {}
            }
        }
        let mut alike = None;
        if !std::mem::replace(&mut state.looked, true) {
            let mut names = vec![file];
            if examined.may_be_fixed_vhd() {
                names.push(self.options.file_name(Format::Vhd)?);
            }
            let sure = state.certain.map(|(size, _)| size).or(examined.sure_size());
            alike = known::find(&self.repository(), self.target.tag(), &names, sure, &examined.head).await;
        }
        Ok(match (source, alike, shape) {
            (Source::Pipe(_), alike, _) => Way::Spool(alike),
            (_, None, Some(shape)) => Way::Upload(shape),
            (_, alike, _) => Way::Measure(alike),
        })
    }

    fn repository(&self) -> Repository {
        self.client.repository_of(&self.target)
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
        let (mut pass, reader) = self.pass(examined, state.is_normalised);
        let (shape, is_kept) = match way {
            Way::Spool(shape) => (shape, true),
            Way::Measure(shape) => (shape, false),
            Way::Upload(shape) => (Some(shape), false),
        };
        pass.shape.clone_from(&shape);
        let measured =
            if is_kept { self.keep(state, reader, pass).await? } else { pass::run(reader, pass).await? };
        state.certain = Some((measured.file_size, measured.disk.format));
        let layer = measured.layer.clone().filter(|_| self.is_right(shape.as_ref(), &measured));
        if let Some(layer) = layer
            && self.repository().has_blob(&layer).await.map_err(ImportError::Push)?
        {
            return Ok(Next::Done(measured, layer));
        }
        if let Some((spool, kept)) = state.spool.take().zip(measured.kept) {
            let spooled = spool.finish(kept, measured.source_size).await.map_err(ImportError::Push)?;
            *source = Source::Spooled(spooled);
        }
        Ok(Next::Again)
    }

    /// A pass that keeps the source's bytes in the registry.
    async fn keep(
        &self,
        state: &mut State,
        reader: PieceReader<SourceError>,
        mut pass: Pass,
    ) -> Result<Measured, ImportError> {
        let (sender, kept) = mpsc::channel(QUEUE);
        let spool = state.spool.insert(Spool::begin(self.repository()).await.map_err(ImportError::Push)?);
        pass.spool = Some((sender, spool.hasher()));
        match tokio::join!(pass::run(reader, pass), spool.keep(kept)) {
            (Ok(measured), Ok(())) => Ok(measured),
            (Err(PassError::Stopped) | Ok(_), Err(error)) => Err(ImportError::Push(error)),
            (Err(error), _) => Err(error.into()),
        }
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
        if state.upload.is_none() {
            let identity = Identity::new(&self.repository(), &shape, &examined.head, identity);
            let begun = Upload::begin(&self.journal, &identity, self.repository(), shape.clone()).await;
            state.upload = Some(begun.map_err(ImportError::Push)?);
        }
        let is_normalised = state.is_normalised;
        let Some(Upload { session, entry, .. }) = &mut state.upload else { return Ok(Next::Again) };
        if self.options.delta && session.takes_delta() && state.held.is_none() {
            let held = Held::gather(&self.repository(), self.target.tag(), shape.layer_size()).await;
            state.held = Some(Arc::new(held));
        }
        let held = state.held.clone();
        let (mut pass, reader) = self.pass(examined, is_normalised);
        let (sender, pieces) = mpsc::channel(QUEUE);
        pass.layer = Some(sender);
        pass.shape = Some(shape.clone());
        let feed = BlobFeed::new(pieces, shape.layer_size(), self.progress.upload_counter()).without(held);
        let (before, copied_before) = (session.offset(), session.copied());
        let mut note = |session: &_| remember(entry, session);
        let (measured, sent) = tokio::join!(pass::run(reader, pass), session.send(feed, &mut note));
        state.copied = session.copied();
        let copied = state.copied.saturating_sub(copied_before);
        state.uploaded += session.offset().saturating_sub(before).saturating_sub(copied);
        let measured = match (measured, sent) {
            (Err(PassError::Stopped) | Ok(_), Err(UploadError::WantsAll)) => {
                tracing::info!("the registry wants all bytes: reading the source again");
                state.held = Some(Arc::default());
                return Ok(Next::Again);
            }
            (Err(PassError::Stopped) | Ok(_), Err(UploadError::Rewind)) => {
                state.rewinds += 1;
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
                return Err(ImportError::Push(error));
            }
            (Err(error), _) => return Err(error.into()),
            (Ok(Measured { layer: Some(_), .. }), Err(error)) => {
                return Err(ImportError::Broken(error.to_string()));
            }
            (Ok(measured), _) => measured,
        };
        state.certain = Some((measured.file_size, measured.disk.format));
        let Some(upload) = state.upload.take() else { return Ok(Next::Again) };
        let Some(layer) = measured.layer.clone().filter(|_| self.is_right(Some(&shape), &measured)) else {
            // Told wrong; now it is known.
            upload.cancel().await;
            return Ok(Next::Again);
        };
        self.progress.enter(Phase::Finishing, None);
        match upload.session.finish(&layer).await {
            Ok(()) => {
                state.unnamed = upload.finished();
                Ok(Next::Done(measured, layer))
            }
            Err(error) if upload.is_resumed || upload.session.copied() > 0 && error.is_wrong_digest() => {
                tracing::info!(%error, "what was begun or copied is of no use: uploading all of it");
                upload.cancel().await;
                state.anew = true;
                state.held = Some(Arc::default());
                Ok(Next::Again)
            }
            Err(error) => {
                state.upload = Some(upload);
                Err(ImportError::Push(error))
            }
        }
    }

    /// Whether the layer that was expected has the size of the file, and the name that its format wants.
    fn is_right(&self, shape: Option<&LayerShape>, measured: &Measured) -> bool {
        let name = self.options.file_name(measured.disk.format);
        name.is_ok_and(|name| Some(&LayerShape::new(&name, measured.file_size)) == shape)
    }

    fn pass(&self, examined: Examined, is_normalised: bool) -> (Pass, PieceReader<SourceError>) {
        let Examined { reader, compression, .. } = examined;
        let (mut checksums, mut limits) = (self.options.checksums.clone(), self.options.limits);
        if is_normalised {
            // They are about the source as it came, and were looked at then.
            checksums.clear();
            limits.expanded_size = u64::MAX;
        }
        let progress = self.progress.clone();
        let pass = Pass {
            compression,
            shape: None,
            layer: None,
            spool: None,
            disk: None,
            checksums,
            limits,
            progress,
        };
        (pass, reader)
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
        let architecture = options.architecture.clone().or(architecture);
        let description = ImageDescription {
            disk: imported.disk,
            file_size: imported.file_size,
            architecture: architecture.unwrap_or_else(|| ARCHITECTURE.to_owned()),
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
