//! [`Provisioner`]: who does the work that an image takes: in this process, or in Jobs of a cluster.
//!
//! The reconciler says what it wants, as often as it likes, and is told how far that is. An [`Order`] that is given
//! again is the same work; another order for the same image may be given once the old one was cancelled.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::image::{HttpFile, ImageId};
use crate::disk::Format;
use crate::importer::{Cause, Checksum, Meter, SourceError};
use crate::oci::{ImageReference, RepositoryName};

/// Work for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// For which image.
    pub image: ImageId,
    /// For which generation of its spec.
    pub generation: i64,
    /// What is to be done.
    pub task: Task,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Bring a disk into the registry.
    Import {
        /// From where.
        supply: Supply,
        /// As which image, by the address at which the registry is reached.
        target: ImageReference,
    },
    /// Write a disk into a claim.
    Fill {
        /// The disk.
        from: Content,
        /// The claim, which is made if it is not there.
        claim: Claim,
        /// Its storage class.
        storage_class: Option<String>,
        /// Bytes that the disk is to have at least.
        size: u64,
    },
}

/// What a claim is filled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An image in the registry.
    Image(ImageReference),
    /// What is in another claim of the namespace.
    Claim(Claim),
}

/// Where the bytes of a disk come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supply {
    /// A web server.
    Http(HttpFile),
    /// Another registry.
    Registry {
        /// The image there.
        image: ImageReference,
        /// Certificate authorities, PEM.
        authorities: Option<Vec<u8>>,
        /// Credentials, in the format of docker's `config.json`.
        credentials: Option<String>,
    },
    /// A file that was uploaded to our registry.
    Uploaded {
        /// Its repository, which is its own.
        repository: RepositoryName,
        /// What the file must hash to.
        checksums: Vec<Checksum>,
    },
    /// The disk in a claim.
    Claim(Claim),
}

/// A persistent volume claim; in embedded mode a folder with a volume file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It waits for its turn.
    Queued(String),
    /// It is being done; how far it is, if it can be asked.
    Running(Option<Meter>),
    /// It failed, and is tried again.
    Retrying {
        /// Why it failed.
        failure: Failure,
        /// Which try failed, from 1 on.
        attempt: u32,
        /// When the next one begins.
        wait: Duration,
    },
    /// The disk is in the registry.
    Imported(Imported),
    /// The disk is in the claim.
    Filled,
    /// It cannot be done; another try would fail in the same way.
    Refused(Failure),
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In a sentence.
    pub error: String,
    /// In a word.
    pub cause: Cause,
    /// Bytes that were read of the source, as far as is known.
    pub read: u64,
}

/// A disk that was brought into the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// What it is.
    pub format: Format,
    /// Bytes that a machine sees.
    pub virtual_size: u64,
    /// Bytes of its file in the registry.
    pub stored_size: u64,
    /// Bytes per second of the whole import.
    pub average: u64,
    /// Bytes that were read of the source, those that were read again too, as far as is known.
    pub read: u64,
    /// The time from the order to the end.
    pub took: Duration,
}

/// The work cannot be looked after; the reconciler asks again.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The API server.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// A file or a folder.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Something that should not be.
    #[error("{0}")]
    Broken(String),
}

/// Does the work that images take.
#[async_trait]
pub trait Provisioner: Send + Sync + 'static {
    /// Images whose work has come to something that is worth a look at once: numbers that run are not.
    fn news(&self) -> BoxStream<'static, ImageId>;

    /// Begins an order, if it was not begun, and tells how far it is.
    async fn observe(&self, order: &Order) -> Result<Report, ProvisionError>;

    /// Ends whatever is done for an image, at once. Tells whether nothing of it is left; until then it has to be asked
    /// again.
    async fn cancel(&self, image: &ImageId) -> Result<bool, ProvisionError>;

    /// The storage class that a claim gets, or why there is none.
    async fn storage_class(&self, wanted: Option<&str>) -> Result<Result<String, String>, ProvisionError>;

    /// The claim of a `VirtualDisk`, or why it cannot be read now.
    async fn disk(&self, namespace: &str, name: &str) -> Result<Result<Claim, NotReady>, ProvisionError>;

    /// Makes a claim with an empty disk of `size` bytes for an image, unless it has it already.
    async fn make_claim(
        &self,
        image: &ImageId,
        claim: &Claim,
        storage_class: Option<&str>,
        size: u64,
    ) -> Result<Result<(), NoClaim>, ProvisionError>;

    /// What tells the file of a web server from what it was before, without fetching it: `None` when its server says nothing about
    /// it. The error is why it cannot be asked.
    async fn version(&self, file: &HttpFile) -> Result<Option<String>, SourceError>;

    /// Makes a claim larger. Tells whether it is; or why it cannot be.
    async fn grow_claim(&self, claim: &Claim, size: u64) -> Result<Result<bool, String>, ProvisionError>;

    /// Whether a claim is there.
    async fn has_claim(&self, claim: &Claim) -> Result<bool, ProvisionError>;

    /// Removes the claim of an image, and none that has its name and is somebody else's. Tells whether it is gone.
    async fn remove_claim(&self, image: &ImageId, claim: &Claim) -> Result<bool, ProvisionError>;
}

/// Why an image cannot have its claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoClaim {
    /// As things are; it is asked for again.
    ForNow(String),
    /// Another try would fail in the same way.
    Finally(String),
}

/// Why a disk cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// It is not there, or not complete.
    Missing(String),
    /// A machine is writing to it.
    Attached(String),
}
