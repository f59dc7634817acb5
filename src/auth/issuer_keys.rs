//! [`IssuerKeys`]: the public keys of an issuer, kept for a while.
//!
//! They are fetched when they are first needed, again when they have become old, and when a token names one that is not among
//! them, which is how issuers change keys. Tokens come from strangers, so that is done only so often. An issuer that
//! does not answer leaves us with what it said last.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use serde::Deserialize;
use url::Url;

/// For how long keys are good without asking again.
const FRESH: Duration = Duration::from_mins(10);

/// The time between two questions at least.
const PAUSE: Duration = Duration::from_secs(10);

/// Keys that one token is tried with.
const MOST: usize = 16;

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Where the issuer's own `/.well-known/openid-configuration` says.
    Discovery,
    /// At this address.
    Url(Url),
    /// In this file.
    File(PathBuf),
}

/// Fetches a document by HTTP.
#[async_trait]
pub trait Fetch: std::fmt::Debug + Send + Sync {
    /// The body of the answer, if it is a success; otherwise why not.
    async fn fetch(&self, url: &Url) -> Result<Vec<u8>, String>;
}

/// Keys that are fetched when they are needed.
#[derive(Debug)]
pub(super) struct IssuerKeys {
    issuer: String,
    source: KeySource,
    fetch: Arc<dyn Fetch>,
    known: Mutex<Known>,
    /// Held by whoever asks the issuer.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Vec<Jwk>,
    /// When they were fetched.
    since: Option<Instant>,
    /// When they were asked for, whatever came of it.
    asked: Option<Instant>,
    /// Why there are none.
    error: Option<String>,
}

impl Known {
    fn is_old(&self) -> bool {
        self.since.is_none_or(|since| since.elapsed() > FRESH)
    }

    fn may_ask(&self) -> bool {
        self.asked.is_none_or(|asked| asked.elapsed() > PAUSE)
    }

    /// What was found, unless the issuer has never answered.
    fn or_error(&self, found: Vec<Jwk>) -> Result<Vec<Jwk>, String> {
        match &self.error {
            Some(error) if self.since.is_none() => Err(error.clone()),
            _ => Ok(found),
        }
    }
}

impl IssuerKeys {
    pub(super) fn new(issuer: &str, source: KeySource, fetch: Arc<dyn Fetch>) -> Self {
        Self {
            issuer: issuer.to_owned(),
            source,
            fetch,
            known: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// The keys that a token may be signed with that names this one, or none. Fails if the issuer has never answered.
    pub(super) async fn find(&self, id: Option<&str>) -> Result<Vec<Jwk>, String> {
        let look = || {
            let known = self.known();
            let found = fitting(&known.keys, id);
            (known.is_old(), known.may_ask(), found)
        };
        let (is_old, may_ask, found) = look();
        if (!is_old && !found.is_empty()) || !may_ask {
            return self.known().or_error(found);
        }
        // Held while they are fetched: who has nothing to go on with waits for the same answer, and nobody else does.
        let _fetching = if found.is_empty() {
            self.fetching.lock().await
        } else {
            match self.fetching.try_lock() {
                Ok(fetching) => fetching,
                Err(_) => return Ok(found),
            }
        };
        let (is_old, may_ask, found) = look();
        if (!is_old && !found.is_empty()) || !may_ask {
            return self.known().or_error(found);
        }
        let fetched = self.all().await;
        let mut known = self.known();
        // An issuer that says nothing is not asked again at once by whoever has waited.
        known.asked = Some(Instant::now());
        match fetched {
            Ok(keys) => *known = Known { keys, since: known.asked, asked: known.asked, error: None },
            Err(error) => {
                tracing::warn!(issuer = self.issuer, error, "cannot get the keys of an issuer of tokens");
                known.error = Some(error);
            }
        }
        let found = fitting(&known.keys, id);
        known.or_error(found)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn all(&self) -> Result<Vec<Jwk>, String> {
        let document = match &self.source {
            KeySource::File(path) => {
                tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))?
            }
            KeySource::Url(url) => self.fetch.fetch(url).await?,
            KeySource::Discovery => {
                let url = self.discovered().await?;
                self.fetch.fetch(&url).await?
            }
        };
        let set: JwkSet =
            serde_json::from_slice(&document).map_err(|error| format!("the keys are no JWKS: {error}"))?;
        Ok(set.keys)
    }

    async fn discovered(&self) -> Result<Url, String> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
            jwks_uri: String,
        }
        let address = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let address: Url = address.parse().map_err(|error| format!("{address}: {error}"))?;
        let document = self.fetch.fetch(&address).await?;
        let found: Configuration = serde_json::from_slice(&document)
            .map_err(|error| format!("{address} is no configuration of an issuer: {error}"))?;
        if found.issuer != self.issuer {
            return Err(format!("{address} is about {:?}, not {:?}", found.issuer, self.issuer));
        }
        found
            .jwks_uri
            .parse()
            .map_err(|error| format!("{address} says that the keys are at {:?}: {error}", found.jwks_uri))
    }
}

fn fitting(keys: &[Jwk], id: Option<&str>) -> Vec<Jwk> {
    let fits = |key: &&Jwk| id.is_none_or(|id| key.common.key_id.as_deref() == Some(id));
    keys.iter().filter(fits).take(MOST).cloned().collect()
}
