//! DVCR: an OCI-native registry for virtual-machine disk images.
//!
//! The modules, from the ground up; each imports only from those before it, and a test keeps it so:
//!
//! - [`oci`]: names, digests, manifests. The vocabulary.
//! - [`disk`]: disk images by their bytes: formats, compression, sizes, what is refused.
//! - [`chunk`]: a blob as chunks.
//! - [`registry`]: the engine, over a store of the crate `storage-backends`.
//! - [`metrics`]: what is counted, as Prometheus reads it.
//! - [`client`]: push to and pull from any registry.
//! - [`artifact`]: a disk as an OCI image, and back.
//! - [`importer`] and [`exporter`]: disks from anywhere into a registry, and out of it.
//! - [`bare_disk`]: disks of this registry without the images around them.
//! - [`secret_key`]: the keys that tokens are signed with, in text and in files.
//! - [`auth`]: who somebody is, and what they may do.
//! - [`notify`]: webhooks, which tell others of pushes and deletions.
//! - [`upload_token`]: who may upload which image until when.
//! - [`api`]: the distribution specification over HTTP, and what stands beside it.
//! - [`apimachinery`] and [`apiserver`]: Kubernetes objects, and an API server for them within this process.
//! - [`controller`]: disk images, disks and machines of Kubernetes resources.
//! - [`config`], [`telemetry`] and [`cli`]: the program.

pub mod api;
pub mod apimachinery;
pub mod apiserver;
pub mod artifact;
pub mod auth;
pub mod bare_disk;
pub mod chunk;
pub mod cli;
pub mod client;
pub mod config;
pub mod controller;
pub mod disk;
pub mod exporter;
pub mod importer;
pub mod metrics;
pub mod notify;
pub mod oci;
pub mod qemu_img;
pub mod registry;
pub mod secret_key;
pub mod sparse;
pub mod telemetry;
pub mod upload_token;
