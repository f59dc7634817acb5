//! [`InProcess`]: does the work in this process, a few images at a time, and keeps volumes as files in a folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backoff::backoff;
use super::image::{HttpFile, ImageId};
use super::provisioner::{
    Claim, Content, Failure, Imported, NoClaim, NotReady, Order, ProvisionError, Provisioner, Report, Supply,
    Task,
};
use super::web;
use crate::artifact::RemoteImage;
use crate::client::{Client, ClientError, Credentials, Egress, Retries};
use crate::disk::Format;
use crate::exporter::{
    Destination, ExportError, ExportOptions, Exporter, Missing, copy_volume, grow_volume, make_blank,
};
use crate::importer::{
    Cause, Checksum, FileSource, Gauge, ImportError, ImportOptions, Importer, Journal, Meter, RegistrySource,
    Source, SourceError, UploadedSource, per_second, ratio,
};
use crate::oci::{ImageReference, RegistryHost};

/// How long the first wait between two tries is.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// News that may wait to be heard.
const NEWS: usize = 1024;

/// A folder below that of volumes which no namespace or claim can be called.
const NOWHERE: &str = "-";

/// What the work needs.
#[derive(Debug, Clone)]
pub struct InProcessOptions {
    /// A client of our registry.
    pub client: Client,
    /// Where our registry is.
    pub registry: RegistryHost,
    /// Which addresses sources may have.
    pub egress: Egress,
    /// Images that are worked on at one time.
    pub workers: usize,
    /// Where begun uploads are remembered.
    pub journal: PathBuf,
    /// Where volumes are.
    pub volumes: PathBuf,
}

/// Does the work in this process.
#[derive(Debug)]
pub struct InProcess {
    shared: Arc<Shared>,
    work: Mutex<HashMap<ImageId, Work>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Shared {
    options: InProcessOptions,
    slots: Semaphore,
    /// The process stops, and another one goes on.
    halted: CancellationToken,
    news: broadcast::Sender<ImageId>,
}

/// The work for one image.
#[derive(Debug)]
struct Work {
    order: Order,
    state: Arc<Mutex<State>>,
    cancelled: CancellationToken,
}

#[derive(Debug)]
enum State {
    Queued,
    Importing(Arc<Importer>, Gauge),
    Filling(Arc<Exporter>, Instant),
    Retrying {
        failure: Failure,
        attempt: u32,
        until: Instant,
    },
    Done(Report),
    /// It was cancelled, and nothing goes on any more.
    Gone,
}

/// One try has failed.
enum Failed {
    /// Another one would too.
    Finally(Failure),
    /// Another one may not.
    ForNow(Failure),
}

impl Failed {
    /// Judges an error before which nothing was read.
    fn judged(is_final: bool, cause: Cause, error: &impl ToString) -> Self {
        let failure = Failure { error: error.to_string(), cause, read: 0 };
        if is_final { Self::Finally(failure) } else { Self::ForNow(failure) }
    }
}

impl InProcess {
    /// No work yet.
    #[must_use]
    pub fn new(options: InProcessOptions) -> Self {
        let slots = Semaphore::new(options.workers);
        let (news, _) = broadcast::channel(NEWS);
        Self {
            shared: Arc::new(Shared { options, slots, halted: CancellationToken::new(), news }),
            work: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Ends all work and waits until it has ended. What was begun goes on when the process is started again.
    pub async fn stop(&self) {
        self.shared.halted.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn begin(&self, order: &Order) -> Work {
        let work = Work {
            order: order.clone(),
            state: Arc::new(Mutex::new(State::Queued)),
            cancelled: CancellationToken::new(),
        };
        let (order, state, cancelled) = (order.clone(), Arc::clone(&work.state), work.cancelled.clone());
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let report = shared.tries(&order, &state, &cancelled).await;
            set(&state, report.map_or(State::Gone, State::Done));
            shared.tell(&order.image);
        });
        work
    }
}

#[async_trait]
impl Provisioner for InProcess {
    fn news(&self) -> BoxStream<'static, ImageId> {
        let news = self.shared.news.subscribe();
        stream::unfold(news, async |mut news| {
            loop {
                match news.recv().await {
                    Ok(image) => return Some((image, news)),
                    // Whoever was missed is looked at a moment later anyway.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }

    async fn observe(&self, order: &Order) -> Result<Report, ProvisionError> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = work.get(&order.image) {
            if found.order == *order {
                return Ok(found.report());
            }
            if !found.is_over() {
                // The reconciler cancels before it orders something else; this is for a crossing of the two.
                found.cancelled.cancel();
                return Ok(Report::Queued("the work before this one is being ended".to_owned()));
            }
        }
        let begun = self.begin(order);
        let report = begun.report();
        work.insert(order.image.clone(), begun);
        Ok(report)
    }

    async fn cancel(&self, image: &ImageId) -> Result<bool, ProvisionError> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = work.get(image) else { return Ok(true) };
        found.cancelled.cancel();
        let is_over = found.is_over();
        if is_over {
            work.remove(image);
        }
        Ok(is_over)
    }

    async fn storage_class(&self, wanted: Option<&str>) -> Result<Result<String, String>, ProvisionError> {
        // There is but one kind of volume here, whatever it is called in a cluster.
        Ok(Ok(wanted.unwrap_or("local").to_owned()))
    }

    async fn disk(&self, namespace: &str, name: &str) -> Result<Result<Claim, NotReady>, ProvisionError> {
        let claim = Claim { namespace: namespace.to_owned(), name: name.to_owned() };
        if self.has_claim(&claim).await? {
            return Ok(Ok(claim));
        }
        let path = self.shared.volume(&claim);
        Ok(Err(NotReady::Missing(format!(
            "VirtualDisk {name} has no volume: there is no file {}",
            path.display()
        ))))
    }

    async fn make_claim(
        &self,
        _image: &ImageId,
        claim: &Claim,
        _storage_class: Option<&str>,
        size: u64,
    ) -> Result<Result<(), NoClaim>, ProvisionError> {
        if self.has_claim(claim).await? {
            return Ok(Ok(()));
        }
        let broken = |failure| match failure {
            Failed::Finally(failure) | Failed::ForNow(failure) => ProvisionError::Broken(failure.error),
        };
        let path = self.shared.with_folder(self.shared.volume(claim)).await.map_err(broken)?;
        Ok(make_blank(path, size).await.map_err(|error| NoClaim::ForNow(error.to_string())))
    }

    async fn version(&self, file: &HttpFile) -> Result<Option<String>, SourceError> {
        web::source(file, &self.shared.options.egress, Retries { attempts: 1 })?.version().await
    }

    async fn grow_claim(&self, claim: &Claim, size: u64) -> Result<Result<bool, String>, ProvisionError> {
        Ok(grow_volume(self.shared.volume(claim), size)
            .await
            .map(|()| true)
            .map_err(|error| error.to_string()))
    }

    async fn has_claim(&self, claim: &Claim) -> Result<bool, ProvisionError> {
        let path = self.shared.volume(claim);
        let exists = tokio::fs::try_exists(&path).await;
        exists.map_err(|error| ProvisionError::File { path: path.display().to_string(), error })
    }

    async fn remove_claim(&self, _image: &ImageId, claim: &Claim) -> Result<bool, ProvisionError> {
        let path = self.shared.volume(claim);
        let Some(folder) = path.parent() else { return Ok(true) };
        match tokio::fs::remove_dir_all(folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ProvisionError::File { path: folder.display().to_string(), error })
            }
            _ => Ok(true),
        }
    }
}

impl Work {
    fn is_over(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*state, State::Done(_) | State::Gone)
    }

    fn report(&self) -> Report {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Queued | State::Gone => {
                Report::Queued("waiting for other images to be made first".to_owned())
            }
            State::Importing(importer, gauge) => Report::Running(Some(gauge.look(&importer.progress()))),
            State::Filling(exporter, began) => {
                let (done, total) = exporter.progress();
                let average = per_second(done, began.elapsed().as_secs_f64());
                let fraction = total.map(|total| ratio(done, total));
                Report::Running(Some(Meter { fraction, average, current: average, ..Meter::default() }))
            }
            State::Retrying { failure, attempt, until } => Report::Retrying {
                failure: failure.clone(),
                attempt: *attempt,
                wait: until.saturating_duration_since(Instant::now()),
            },
            State::Done(report) => report.clone(),
        }
    }
}

/// Where the volume of a claim is below the folder of volumes. A name that leads anywhere else, which resources may have in them, has
/// a folder in which there is nothing.
#[must_use]
pub fn volume_path(volumes: &Path, namespace: &str, claim: &str) -> PathBuf {
    let [namespace, claim] = [namespace, claim].map(|name| {
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
        if is_name && !name.starts_with('.') && !name.is_empty() { name } else { NOWHERE }
    });
    volumes.join(namespace).join(claim).join("disk.img")
}

fn set(state: &Mutex<State>, new: State) {
    *state.lock().unwrap_or_else(PoisonError::into_inner) = new;
}

impl Shared {
    /// Nobody may be listening.
    fn tell(&self, image: &ImageId) {
        let _ = self.news.send(image.clone());
    }

    /// Tries until it is done or can never be; `None` once it was cancelled.
    async fn tries(
        &self,
        order: &Order,
        state: &Mutex<State>,
        cancelled: &CancellationToken,
    ) -> Option<Report> {
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            set(state, State::Queued);
            let slot = tokio::select! {
                biased;
                () = cancelled.cancelled() => return None,
                () = self.halted.cancelled() => return None,
                slot = self.slots.acquire() => slot.ok()?,
            };
            let outcome = self.once(order, state, cancelled).await;
            drop(slot);
            let failure = match outcome? {
                Ok(Report::Imported(imported)) => {
                    return Some(Report::Imported(Imported { took: began.elapsed(), ..imported }));
                }
                Ok(report) => return Some(report),
                Err(Failed::Finally(failure)) => {
                    tracing::info!(image = %order.image, error = failure.error, "refused");
                    return Some(Report::Refused(failure));
                }
                Err(Failed::ForNow(failure)) => failure,
            };
            let wait = backoff(attempt, FIRST_WAIT, LONGEST_WAIT);
            tracing::warn!(image = %order.image, error = failure.error, attempt, wait_s = wait.as_secs(), "failed, and is tried again");
            set(state, State::Retrying { failure, attempt, until: Instant::now() + wait });
            self.tell(&order.image);
            tokio::select! {
                () = cancelled.cancelled() => return None,
                () = self.halted.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn once(
        &self,
        order: &Order,
        state: &Mutex<State>,
        cancelled: &CancellationToken,
    ) -> Option<Result<Report, Failed>> {
        match &order.task {
            Task::Import { supply, target } => {
                let source = match self.source(supply) {
                    Ok((source, checksums)) => (source, checksums),
                    Err(error) => return Some(Err(Failed::judged(true, Cause::Other, &error))),
                };
                let (source, checksums) = source;
                let options = ImportOptions { checksums, ..ImportOptions::default() };
                let journal = Journal::new(self.options.journal.clone());
                let importer =
                    Arc::new(Importer::new(self.options.client.clone(), target.clone(), options, journal));
                set(state, State::Importing(Arc::clone(&importer), Gauge::default()));
                import(&importer, source, cancelled, &self.halted).await
            }
            Task::Fill { from: Content::Image(image), claim, size, .. } => {
                let exporter = Arc::new(Exporter::default());
                set(state, State::Filling(Arc::clone(&exporter), Instant::now()));
                tokio::select! {
                    () = cancelled.cancelled() => None,
                    () = self.halted.cancelled() => None,
                    outcome = self.fill(&exporter, image, claim, *size) => Some(outcome),
                }
            }
            Task::Fill { from: Content::Claim(from), claim, size, .. } => {
                let from = self.volume(from);
                let copied = async {
                    let to = Destination::at(self.with_folder(self.volume(claim)).await?, true);
                    copy_volume(from, to, Some(*size), Missing::IsAnError).await.map_err(not_written)
                };
                set(state, State::Filling(Arc::default(), Instant::now()));
                tokio::select! {
                    () = cancelled.cancelled() => None,
                    () = self.halted.cancelled() => None,
                    outcome = copied => Some(outcome.map(|()| Report::Filled)),
                }
            }
        }
    }

    fn source(&self, supply: &Supply) -> Result<(Source, Vec<Checksum>), ClientError> {
        Ok(match supply {
            Supply::Http(file) => {
                let source = web::source(file, &self.options.egress, Retries::default())?;
                (Source::Http(Box::new(source)), file.checksums.clone())
            }
            Supply::Registry { image, authorities, credentials } => {
                let credentials = credentials.clone().map_or(Credentials::Anonymous, Credentials::Document);
                let client = web::client(authorities.as_ref(), credentials, &self.options.egress)?;
                let source = RegistrySource::new(client, image.clone(), None);
                (Source::Registry(Box::new(source)), Vec::new())
            }
            Supply::Uploaded { repository, checksums } => {
                let repository = self.options.client.repository(&self.options.registry, repository);
                (Source::Uploaded(UploadedSource::new(repository)), checksums.clone())
            }
            Supply::Claim(claim) => (Source::File(FileSource::new(self.volume(claim))), Vec::new()),
        })
    }

    /// Where the volume of a claim is.
    fn volume(&self, claim: &Claim) -> PathBuf {
        volume_path(&self.options.volumes, &claim.namespace, &claim.name)
    }

    /// Makes the folder of a volume.
    async fn with_folder(&self, path: PathBuf) -> Result<PathBuf, Failed> {
        if let Some(folder) = path.parent() {
            let made = tokio::fs::create_dir_all(folder).await;
            made.map_err(|error| {
                Failed::judged(false, Cause::Other, &format!("{}: {error}", folder.display()))
            })?;
        }
        Ok(path)
    }

    async fn fill(
        &self,
        exporter: &Exporter,
        image: &ImageReference,
        claim: &Claim,
        size: u64,
    ) -> Result<Report, Failed> {
        let path = self.with_folder(self.volume(claim)).await?;
        let found = RemoteImage::resolve(&self.options.client, image, None).await;
        let found = found.map_err(|error| Failed::judged(false, Cause::Registry, &error))?;
        let options =
            ExportOptions { format: Some(Format::Raw), size: Some(size), ..ExportOptions::default() };
        match exporter.export(&found, Destination::at(path, true), options).await {
            Ok(_) => Ok(Report::Filled),
            Err(error) => Err(Failed::judged(error.is_refusal(), Cause::Other, &error)),
        }
    }
}

/// A volume was not written.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_written(error: ExportError) -> Failed {
    Failed::judged(error.is_refusal(), Cause::Other, &error)
}

async fn import(
    importer: &Importer,
    source: Source,
    cancelled: &CancellationToken,
    halted: &CancellationToken,
) -> Option<Result<Report, Failed>> {
    let began = Instant::now();
    let import = importer.import(source);
    tokio::pin!(import);
    // Told to stop, it leaves what another process can go on with; abandoned, it leaves nothing.
    let outcome = tokio::select! {
        outcome = &mut import => outcome,
        () = cancelled.cancelled() => {
            importer.abandon();
            import.await
        }
        () = halted.cancelled() => {
            importer.stop();
            import.await
        }
    };
    match outcome {
        Ok(made) => {
            let read = made.source_size.saturating_mul(made.passes.into());
            Some(Ok(Report::Imported(Imported {
                format: made.disk.format,
                virtual_size: made.disk.virtual_size,
                stored_size: made.file_size,
                average: per_second(read, began.elapsed().as_secs_f64()),
                read: importer.progress().read_in_all(),
                took: began.elapsed(),
            })))
        }
        Err(ImportError::Stopped) => None,
        Err(error) => {
            let read = importer.progress().read_in_all();
            let failure = Failure { error: error.to_string(), cause: error.cause(), read };
            Some(Err(if error.is_refusal() { Failed::Finally(failure) } else { Failed::ForNow(failure) }))
        }
    }
}
