//! Push to and pull from any registry that speaks the OCI distribution specification.
//!
//! [`Client`] holds what all requests share: TLS, credentials, tokens, the [`Egress`] rule, patience.
//! [`Repository`] is one repository on one registry, with a method for each request; [`BlobReader`]
//! and [`BlobUpload`] move blobs of any size in bounded memory and survive broken connections.
//!
//! Nothing here knows disk images. It is our own rather than a library because uploads of 100 GB have to
//! go on where they stopped, also in another process, and because every address that is spoken to must
//! pass the egress rule, also behind a redirect.

mod auth;
mod blob_reader;
mod chunks;
mod collect;
mod copy;
mod credentials;
mod delta;
mod egress;
mod error;
mod events;
mod exchange;
mod feed;
mod held;
mod listing;
mod piece;
mod repository;
mod retry;
mod rewrite;
mod stats;
mod transport;
mod upload;
mod verify;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use auth::basic;
pub use blob_reader::{BlobReader, Connections};
pub use copy::{Copied, copy};
pub use credentials::{Credentials, IdentityTokens};
pub use egress::{Egress, Refusal, RefusedAddress};
pub use error::ClientError;
pub use events::Events;
pub use feed::BlobFeed;
pub use held::Held;
pub use repository::{RemoteManifest, Repository};
pub use retry::{Backoff, Retries};
pub use rewrite::{RewriteEvent, RewriteOutcome};
pub(crate) use transport::redacted;
pub use transport::{OwnServer, Response, Transport, TransportOptions, check_authorities};
pub use upload::{BlobUpload, UploadError};

use crate::oci::{ImageReference, RegistryHost, RepositoryName};
use auth::Authenticator;

/// What all requests of a [`Client`] share.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// TLS and addresses.
    pub transport: TransportOptions,
    /// Who we are.
    pub credentials: Credentials,
    /// How often a request is tried.
    pub retries: Retries,
    /// Registries that are spoken to over plain HTTP, besides those on loopback.
    pub plain_http: Vec<RegistryHost>,
    /// Registries that are spoken to over TLS though they are on loopback.
    pub tls: Vec<RegistryHost>,
}

/// A client of any number of registries. Clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transport: Transport,
    authenticator: Authenticator,
    retries: Retries,
    plain_http: Vec<RegistryHost>,
    tls: Vec<RegistryHost>,
}

impl Client {
    /// A client. Fails when a certificate authority cannot be read.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let transport = Transport::new(&options.transport)?;
        let authenticator = Authenticator::new(options.credentials);
        let ClientOptions { retries, plain_http, tls, .. } = options;
        Ok(Self { shared: Arc::new(Shared { transport, authenticator, retries, plain_http, tls }) })
    }

    /// A repository; nothing is asked yet.
    #[must_use]
    pub fn repository(&self, registry: &RegistryHost, name: &RepositoryName) -> Repository {
        Repository::new(self.clone(), registry.clone(), name.clone())
    }

    /// The repository of an image.
    #[must_use]
    pub fn repository_of(&self, image: &ImageReference) -> Repository {
        self.repository(&image.registry, &image.repository)
    }

    /// The transport, for sources that are no registries.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// How often a request is tried.
    #[must_use]
    pub fn retries(&self) -> Retries {
        self.shared.retries
    }

    /// How a registry is spoken to: `http` or `https`.
    #[must_use]
    pub fn scheme(&self, registry: &RegistryHost) -> &'static str {
        // Named without a port, a host is meant with all of its ports.
        let is_named = |named: &RegistryHost| named == registry || named.as_str() == registry.host();
        let plain = registry.is_loopback() || self.shared.plain_http.iter().any(is_named);
        let plain = plain && !self.shared.tls.iter().any(is_named);
        if plain { "http" } else { "https" }
    }
}

/// For how long a registry may be busy with the last request of an upload: some read the blob again.
const COMMIT_PATIENCE: Duration = Duration::from_mins(30);
