//! Tests of the engine over stores in memory and on disk, with faults, races and counted bytes.

mod faults;
mod layers;
mod manifests;
mod registry_under_test;
mod sessions;
mod written_once;
