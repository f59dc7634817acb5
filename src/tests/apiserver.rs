//! The API server from outside: through its router, as kubectl and `kube` speak to it.

mod admission;
mod aliases;
mod crud;
mod delete;
mod discovery;
mod hostile;
mod kube_client;
mod lists;
mod owners;
mod patches;
mod storage;
mod support;
mod tables;
mod watches;
