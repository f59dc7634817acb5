//! The engine: what a registry does, without HTTP.
//!
//! Three ideas carry it, and [`layout`] draws them:
//!
//! - **Bytes are written once, in place.** An upload streams into data objects with random names; finishing
//!   it writes a small record that says which bytes make up the blob. Nothing is renamed, copied or read
//!   again, so finishing takes the same time for a kilobyte and for 100 GB.
//! - **A blob is a list of extents.** A run in a data object, or a recipe of chunks, most of which another image may
//!   have brought. Readers follow the list and need no index.
//! - **Everything else is a small key** below its repository: membership of blobs, manifests, tags,
//!   referrers. Each operation is one or two of them, and each listing is a range of one flat folder.
//!
//! Blocking work (hashing, disk) runs on the blocking threads; the memory of an upload or a download is
//! bounded by a few megabytes, whatever its size.

mod blob;
mod blocking;
mod catalog;
mod chunk_index;
mod claims;
mod collect;
mod condemn;
mod error;
mod event;
mod extents;
mod ingest;
mod lately;
pub mod layout;
mod lease;
mod listeners;
mod manifest;
mod manifest_record;
mod mount;
mod outbox;
mod pace;
mod packs;
mod places;
mod quarantine;
mod quota;
mod read;
mod read_chunks;
mod recipe;
mod recipe_page;
mod recipes;
mod record;
mod referrers;
mod retention;
mod rewrite;
mod schedule;
mod session;
mod source;
mod staging;
mod stats;
mod stored;
mod tag;
mod tally;
mod upload;
mod verify;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use storage_backends::Store;

use chunk_index::ChunkIndex;
use claims::Claims;
use listeners::Listeners;
use source::Source;

pub use blob::BlobReader;
pub use collect::{Amount, Collected, Expired, Step};
pub use error::{Error, Result};
pub use event::{Change, Event};
pub use extents::BlobExtent;
pub use ingest::{Body, BodyError};
pub use lease::{Claimant, Lease};
pub use listeners::Listener;
pub use manifest::{PushedManifest, StoredManifest};
pub use outbox::{Intent, InvalidQueueName, LONGEST_WAIT, Posted, QueueName, written_at};
pub use quota::{Quota, QuotaExceeded, QuotaStats, Quotas};
pub use referrers::ReferrersPage;
pub use retention::{Repositories, RetentionRule};
pub use rewrite::{Compacted, Compactor, Form};
pub use session::SessionId;
pub use staging::{Piece, Staged, Staging, StagingError, Total};
pub use stats::{RepositoryStats, Stats};
pub use storage_backends::{ByteStream, Error as StoreError};
pub use tally::{Chunked, Tally};
pub use upload::{Append, UploadStatus};
pub use verify::{Checked, Depth, Finding, Kind, Verification, Verified, Verifier, VerifyTally};

/// How often an operation tries again when others get in its way. Arbitrary: someone else succeeded each time.
const ATTEMPTS: usize = 16;

/// Records that are read at one time by whoever reads very many.
const LOOKUPS: usize = 16;

/// Milliseconds since 1970.
fn now() -> u64 {
    since_1970(SystemTime::now())
}

/// A time in milliseconds since 1970.
fn since_1970(time: SystemTime) -> u64 {
    milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in byte order.
    pub entries: Vec<T>,
    /// Whether more follow the last one.
    pub more: bool,
}

/// A registry over a store. Any number of them, in any number of processes, may share a store that says
/// it can be shared.
#[derive(Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
    sessions: session::Locks,
    rules: Rules,
    retention: Vec<RetentionRule>,
    source: Arc<Source>,
    index: Arc<ChunkIndex>,
    claims: Arc<Claims>,
    quotas: Arc<Quotas>,
    listeners: Listeners,
    verify_tally: Arc<VerifyTally>,
}

/// What a registry stores how, and what it refuses. The sizes are for production; tests make them small.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Refuse a manifest whose config or layers are not in its repository. The spec leaves it open; an image that
    /// cannot be pulled helps nobody but those who mirror parts of images.
    pub require_blobs: bool,
    /// Blobs of up to this many bytes are kept inside their record.
    pub inline: u64,
    /// How much of a running upload a crash may cost: its state is saved each time this many bytes have come.
    pub checkpoint: u64,
    /// Blobs of more than this many bytes are stored in chunks, unless they are compressed; `None`: no blob is.
    pub chunk_from: Option<u64>,
    /// The level of zstd at which chunks are compressed; 0: not at all.
    pub compression: i32,
    /// Bytes in a pack of chunks, at most, unless one chunk has more.
    pub pack: u64,
    /// Bytes of a blob for each read of them, at least: known chunks that lie scattered are stored again, side by side. 0: none
    /// are.
    pub run: u64,
    /// Percent of a pack that have to be needed for it to stay: what is needed of others is copied by a compaction.
    pub sparse_below: u8,
    /// Bytes of memory that the index of known chunks may take.
    pub index_memory: u64,
    /// Bytes of memory for what was read of packs lately; 0: nothing is kept.
    pub read_memory: u64,
    /// How long what nothing needs stays at least, at each of the steps in which it goes: a client may have been told of it, or
    /// be reading it. Clocks of replicas may not differ by more.
    pub grace: Duration,
    /// How long an upload stays that nobody goes on with.
    pub abandoned: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            require_blobs: true,
            // Above image configs and below anything worth a file of its own. Arbitrary.
            inline: 16 << 10,
            // A few seconds of a fast push.
            checkpoint: 256 << 20,
            // What is smaller shares too little to be worth a pack of its own. Arbitrary.
            chunk_from: Some(1 << 20),
            compression: 1,
            pack: 64 << 20,
            // In a bucket at 20 ms a read, four at once: 10 MB/s at worst. Ten rebuilt versions of a system take 652 MB with it,
            // 606 without, and 682 with 64 KiB.
            run: 48 << 10,
            sparse_below: 50,
            // Some 4 million chunks, or 250 GiB of different data.
            index_memory: 256 << 20,
            read_memory: 0,
            // Longer than the longest import or pull, as far as one can tell.
            grace: Duration::from_hours(6),
            abandoned: Duration::from_hours(7 * 24),
        }
    }
}

impl Registry {
    /// A registry over `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with_rules(store, Rules::default())
    }

    /// A registry over `store` with rules of one's own.
    #[must_use]
    pub fn with_rules(store: Arc<dyn Store>, rules: Rules) -> Self {
        let source = Arc::new(Source::new(&store, rules.read_memory));
        let index = Arc::new(ChunkIndex::new(Arc::clone(&source), rules.index_memory));
        let claims = Arc::new(Claims::new(&store, &source.packs, rules.grace));
        let quotas = Arc::new(Quotas::new(&store, Vec::new()));
        Self {
            store,
            sessions: session::Locks::default(),
            rules,
            retention: Vec::new(),
            quotas,
            listeners: Listeners::default(),
            verify_tally: Arc::default(),
            source,
            index,
            claims,
        }
    }

    /// The same, with rules by which tags go, and images without one: the first that is for a repository is the one for it.
    #[must_use]
    pub fn with_retention(mut self, rules: Vec<RetentionRule>) -> Self {
        self.retention = rules;
        self
    }

    /// The same registry, which refuses what would be more than `quotas` allow.
    #[must_use]
    pub fn with_quotas(self, quotas: Vec<Quota>) -> Self {
        Self { quotas: Arc::new(Quotas::new(&self.store, quotas)), ..self }
    }

    /// How much some repositories may hold together.
    #[must_use]
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Learns which chunks are stored. Until it has, what is stored already is stored again.
    pub async fn learn_chunks(&self) {
        self.index.refresh().await;
    }

    /// The least bytes that a chunk of an upload should have, where smaller ones make slow reads.
    #[must_use]
    pub fn min_chunk(&self) -> Option<u64> {
        self.store.capabilities().min_pause
    }

    /// What was counted of chunks.
    #[must_use]
    pub fn tally(&self) -> &Arc<Tally> {
        &self.index.tally
    }

    /// What verifications have read and found.
    #[must_use]
    pub fn verify_tally(&self) -> &Arc<VerifyTally> {
        &self.verify_tally
    }

    /// Whether the store answers.
    pub async fn check(&self) -> Result<()> {
        match self.store.get(&layout::health()).await {
            Ok(_) | Err(storage_backends::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
