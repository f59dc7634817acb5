//! [`Tls`]: the certificate of the server, whom it takes certificates from, and both anew when their files change.
//!
//! A pair that cannot be used is an error at the start and a warning later: the server goes on with what it has. Files are
//! looked at every few seconds rather than watched, because what changes in Kubernetes is a link two folders above
//! them. Each change makes a whole new configuration with its own memory of sessions, so that nobody resumes a
//! session that the new authorities would not allow.
//!
//! This process is a client of itself, and no authority need vouch for that: [`Tls::own_client`] takes exactly the certificate
//! that the server shows at the moment, and shows the same one where clients must have one. Whoever can do that
//! has the server's key, and so could be the server.

mod clients;
mod own;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use clients::Clients;
use own::Own;

/// How often the files are looked at. A kubelet takes a minute to bring a new secret.
const LOOK: Duration = Duration::from_secs(5);

/// Where certificates are.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The server's certificate and those that lead to its authority, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// The authorities of clients, in PEM, if they are asked for certificates.
    pub client_ca: Option<PathBuf>,
    /// Turn clients without a certificate away.
    pub client_required: bool,
}

/// Files that make no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Two files that do not belong together.
    #[error("{key} is not the key of the certificate in {certificate}")]
    Mismatch {
        /// The certificate's.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
    },
}

/// TLS of a server.
pub struct Tls {
    options: TlsOptions,
    current: RwLock<Arc<Current>>,
}

/// What was read last and could be used.
struct Current {
    files: Files,
    own: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
    expires: Option<SystemTime>,
}

/// The bytes of the files.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub fn open(options: TlsOptions) -> Result<Arc<Self>, TlsError> {
        let current = Current::of(Files::read(&options)?, &options)?;
        Ok(Arc::new(Self { options, current: RwLock::new(Arc::new(current)) }))
    }

    /// Looks at the files now and then, for as long as it is let.
    pub async fn keep(&self) {
        let mut broken = None;
        loop {
            tokio::time::sleep(LOOK).await;
            match self.reload() {
                Ok(is_new) => {
                    if is_new {
                        tracing::info!(certificate = %self.options.certificate.display(), "TLS has a new certificate or new authorities");
                    }
                    broken = None;
                }
                Err(error) => {
                    let reason = error.to_string();
                    // Said once: an operator who wants to be told again has alerts for what expires.
                    if broken.as_ref() != Some(&reason) {
                        tracing::warn!(
                            error = reason,
                            "TLS goes on with the certificate and authorities that it has"
                        );
                    }
                    broken = Some(reason);
                }
            }
        }
    }

    /// Reads the files again; whether there was something new.
    fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.options)?;
        if files == self.current().files {
            return Ok(false);
        }
        let new = Arc::new(Current::of(files, &self.options)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the certificate expires that is shown at the moment; `None` if that cannot be told.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.current().expires
    }

    /// How connections are taken at the moment.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().server)
    }

    /// How this process speaks to its own server.
    pub fn own_client(self: &Arc<Self>) -> Result<ClientConfig, rustls::Error> {
        let own = Arc::new(Own { tls: Arc::clone(self), provider: provider() });
        Ok(ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&own) as Arc<_>)
            .with_client_cert_resolver(own))
    }
}

impl Files {
    fn read(options: &TlsOptions) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
        };
        Ok(Self {
            certificate: read(&options.certificate)?,
            key: read(&options.key)?,
            client_ca: options.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

impl Current {
    fn of(files: Files, options: &TlsOptions) -> Result<Self, TlsError> {
        let unusable = |path: &Path, reason: &dyn fmt::Display| TlsError::Unusable {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let chain =
            certificates(&files.certificate).map_err(|reason| unusable(&options.certificate, &reason))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|error| unusable(&options.key, &key_reason(&files.key, &error)))?;
        let key =
            provider().key_provider.load_private_key(key).map_err(|error| unusable(&options.key, &error))?;
        let own = Arc::new(CertifiedKey::new(chain, key));
        own.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: options.certificate.clone(), key: options.key.clone() }
            }
            error => unusable(&options.certificate, &error),
        })?;
        let broken = |error: rustls::Error| unusable(&options.certificate, &error);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(broken)?;
        let builder = match (&options.client_ca, &files.client_ca) {
            (Some(path), Some(pem)) => {
                let clients = Clients::of(
                    pem,
                    own.end_entity_cert().map_err(broken)?.clone().into_owned(),
                    options.client_required,
                )
                .map_err(|reason| unusable(path, &reason))?;
                builder.with_client_cert_verifier(Arc::new(clients))
            }
            _ => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own))));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let expires = own.end_entity_cert().ok().and_then(expiry);
        Ok(Self { files, own, server: Arc::new(server), expires })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM ({error})"))?;
    if found.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(found) }
}

/// When a certificate expires, if that is after 1970.
fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Why there is no key in a file, as far as one can tell.
fn key_reason(pem: &[u8], error: &rustls::pki_types::pem::Error) -> String {
    let text = String::from_utf8_lossy(pem);
    if text.contains("ENCRYPTED") {
        "the key in it is encrypted; decrypt it with `openssl pkey`".to_owned()
    } else {
        format!("it holds no private key in PEM ({error})")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    fn pair() -> (String, String) {
        pair_until(4096)
    }

    /// A pair that is good until the end of a year.
    fn pair_until(year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_after = date_time_ymd(year, 12, 31);
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn put(folder: &TempDir, certificate: &str, key: &str) -> TlsOptions {
        std::fs::write(folder.path().join("tls.crt"), certificate).unwrap();
        std::fs::write(folder.path().join("tls.key"), key).unwrap();
        TlsOptions {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            client_ca: None,
            client_required: false,
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_reason() {
        let folder = TempDir::new().unwrap();
        let (certificate, key) = pair();
        let (_, other) = pair();
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (certificate, key, file, reason) in [
            ("", key.as_str(), "tls.crt", "no certificate"),
            (garbled, &key, "tls.crt", "cannot be used"),
            (&certificate, "", "tls.key", "no private key"),
            (&certificate, &certificate, "tls.key", "no private key"),
            (&certificate, encrypted, "tls.key", "encrypted"),
            (&certificate, &other, "tls.key", "is not the key of"),
        ] {
            let error = Tls::open(put(&folder, certificate, key)).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(reason), "{error}");
        }
        let mut options = put(&folder, &certificate, &key);
        assert!(Tls::open(options.clone()).is_ok());
        options.client_ca = Some(options.key.clone());
        let error = Tls::open(options.clone()).unwrap_err().to_string();
        assert!(error.contains("tls.key") && error.contains("no certificate"), "{error}");
        options.client_ca = Some(folder.path().join("nowhere.pem"));
        let error = Tls::open(options).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("nowhere.pem"), "{error}");
    }

    #[test]
    fn a_new_pair_is_taken_and_a_broken_one_is_not() {
        let folder = TempDir::new().unwrap();
        let (certificate, key) = pair();
        let tls = Tls::open(put(&folder, &certificate, &key)).unwrap();
        assert!(!tls.reload().unwrap());
        let first = tls.server();

        let (next, next_key) = pair();
        put(&folder, &next, &key);
        assert!(matches!(tls.reload(), Err(TlsError::Mismatch { .. })));
        assert!(Arc::ptr_eq(&first, &tls.server()));

        put(&folder, &next, &next_key);
        assert!(tls.reload().unwrap());
        assert!(!Arc::ptr_eq(&first, &tls.server()));
    }

    #[test]
    fn the_certificate_that_is_served_tells_when_it_expires() {
        let at = |year: i32| date_time_ymd(year, 12, 31).unix_timestamp().unsigned_abs();
        let expires = |tls: &Tls| tls.expires().unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let folder = TempDir::new().unwrap();
        let (certificate, key) = pair_until(2030);
        let tls = Tls::open(put(&folder, &certificate, &key)).unwrap();
        assert_eq!(expires(&tls), at(2030));
        // Later than the years that have two digits in a certificate.
        let (next, next_key) = pair_until(2077);
        put(&folder, &next, &key);
        assert!(tls.reload().is_err());
        assert_eq!(expires(&tls), at(2030));
        put(&folder, &next, &next_key);
        tls.reload().unwrap();
        assert_eq!(expires(&tls), at(2077));
    }

    /// Whether a client and a server come to terms.
    async fn agree(client: ClientConfig, server: Arc<ServerConfig>) -> bool {
        let (near, far) = tokio::io::duplex(1 << 16);
        let connect = async {
            let name = "127.0.0.1".try_into().unwrap();
            let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
            // With TLS 1.3 a client that is turned away learns of it only when it reads.
            tokio::io::AsyncReadExt::read_u8(&mut stream).await
        };
        let accept = async {
            let mut stream = TlsAcceptor::from(server).accept(far).await?;
            tokio::io::AsyncWriteExt::write_u8(&mut stream, 1).await?;
            tokio::io::AsyncWriteExt::flush(&mut stream).await
        };
        let (connected, accepted) = tokio::join!(connect, accept);
        connected.is_ok() && accepted.is_ok()
    }

    #[tokio::test]
    async fn a_process_trusts_its_own_certificate_alone_also_after_a_change() {
        let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (certificate, key) = pair();
        let (authority, _) = pair();
        let mut options = put(&folder, &certificate, &key);
        options.client_ca = Some(folder.path().join("ca.pem"));
        options.client_required = true;
        std::fs::write(folder.path().join("ca.pem"), authority).unwrap();
        let tls = Tls::open(options).unwrap();
        assert!(agree(tls.own_client().unwrap(), tls.server()).await);

        let (next, next_key) = pair();
        put(&folder, &next, &next_key);
        tls.reload().unwrap();
        assert!(agree(tls.own_client().unwrap(), tls.server()).await);

        // Somebody else's server, and a client that shows somebody else's certificate.
        let (other, other_key) = pair();
        let other = Tls::open(put(&elsewhere, &other, &other_key)).unwrap();
        assert!(!agree(tls.own_client().unwrap(), other.server()).await);
        assert!(!agree(other.own_client().unwrap(), tls.server()).await);
    }
}
