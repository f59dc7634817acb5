//! Tests of the engine over stores in memory and on disk, with faults, races and counted bytes.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "clippy sees tests only in functions that are marked as such"
)]

mod apiserver;
mod chunks;
mod collect;
mod collect_under_load;
mod definitions;
mod disk_formats;
mod faults;
mod interrupted;
mod layers;
mod machines;
mod manifests;
mod metrics;
mod quotas;
mod registry_under_test;
mod retention;
mod rewrite;
mod sessions;
mod stats;
mod uploaded_files;
mod verify;
mod verify_schedule;
mod webhooks;
mod written_once;
