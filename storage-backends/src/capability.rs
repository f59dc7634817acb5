//! What a backend declares of itself, so that the engine asks instead of knowing backends by name.

/// What a store can do beyond the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The name of the backend, for logs: `filesystem`, `s3`, `memory`.
    pub backend: &'static str,
    /// Several processes may write to this store at once. The filesystem cannot offer it (it has no
    /// compare-and-swap, so one process holds the directory), nor can an S3 server without conditional put.
    pub shared: bool,
    /// A writer paused with bytes in it goes on in the same data object. Where this is false, every
    /// pause seals the object and the next bytes begin another.
    pub appends: bool,
    /// The largest data object in bytes. Whoever writes more has to go on in another.
    pub max_data_object: u64,
    /// A writer can be checkpointed when its length is a multiple of this.
    pub checkpoint_unit: u64,
    /// The least bytes that a writer should be given between two pauses, where fewer make slow reads.
    pub min_pause: Option<u64>,
}
