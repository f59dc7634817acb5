//! Settings: every key with its default, where they come from, and what is refused.
//!
//! Later sources win: the TOML file, then the environment (`DVCR_` and the key in capitals; `DVCR_S3_ENDPOINT` is
//! `s3.endpoint`), then flags. A key that does not exist is refused wherever it stands, with the
//! keys that do: a misspelt limit that is silently ignored is worse than none.

mod auth;
mod environment;
mod golden;
mod limits;
mod quotas;
mod retention;
mod tls;
mod value;
mod webhooks;

use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::{Figment, Provider};
use ipnet::IpNet;
use serde::Deserialize;
use storage_backends::Location;
use url::Url;

use crate::oci::RegistryHost;
use crate::upload_token::UploadKey;
use environment::Environment;
pub use golden::GoldenConfig;
pub use limits::LimitsConfig;
pub use quotas::QuotaConfig;
pub use tls::{ClientCertificates, TlsConfig};
pub use value::Networks;
pub use webhooks::{HiddenText, WebhookConfig, WebhookEvent};

pub use auth::{AuthConfig, IssuerConfig, RuleConfig};
pub use retention::RetentionConfig;

/// Until it is known how large a blob is, its bytes are held in memory: so many at most.
const LARGEST_HELD: u64 = 16 << 20;

/// The settings of `dvcr serve`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: ListenAddress,
    /// The data directory, when `storage` names no other place.
    pub data: PathBuf,
    /// Where the data is: `s3://bucket/prefix`, or a directory.
    #[serde(deserialize_with = "value::parsed")]
    pub storage: Option<Location>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// A file for events about who did what, besides the log.
    pub audit_log: Option<PathBuf>,
    /// Where metrics and health are served in plain HTTP, for monitoring alone; unset: metrics are served where everything is,
    /// if only this machine reaches that.
    pub metrics_listen: Option<ListenAddress>,
    /// Where traces go: OTLP over HTTP, at an OpenTelemetry collector; unset: nowhere.
    #[serde(deserialize_with = "value::parsed")]
    pub traces_endpoint: Option<Url>,
    /// Of a hundred traces that begin here, how many are sent.
    #[serde(deserialize_with = "value::number")]
    pub traces_percent: u64,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,dvcr=debug`.
    pub log_level: String,
    /// Seconds for which a client may be silent within a body.
    #[serde(deserialize_with = "value::number")]
    pub idle_timeout: u64,
    /// Seconds within which the headers of a request must be complete.
    #[serde(deserialize_with = "value::number")]
    pub header_timeout: u64,
    /// Networks of proxies that are believed when they say, in `X-Forwarded-For`, on whose behalf they ask.
    #[serde(deserialize_with = "value::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// What becomes of a manifest whose config or layers are not in its repository.
    pub missing_blobs: MissingBlobs,
    /// The largest manifest in bytes.
    #[serde(deserialize_with = "value::number")]
    pub max_manifest: u64,
    /// Whether large blobs that are not compressed are stored in chunks, those once that others have too.
    #[serde(deserialize_with = "value::switch")]
    pub chunking: bool,
    /// Bytes of a blob that is stored whole, at most.
    #[serde(deserialize_with = "value::number")]
    pub chunk_from: u64,
    /// The level of zstd at which chunks are compressed; 0: not at all.
    #[serde(deserialize_with = "value::number")]
    pub compression: u64,
    /// Bytes of memory for the index of known chunks.
    #[serde(deserialize_with = "value::number")]
    pub chunk_index_memory: u64,
    /// Bytes of memory for what was read of chunks lately; unset: some if the data is in a bucket, none if it is in a
    /// directory, which the system keeps in memory by itself.
    #[serde(deserialize_with = "value::optional_number")]
    pub read_memory: Option<u64>,
    /// Seconds between two collections of what nothing needs any more; 0: none is begun.
    #[serde(deserialize_with = "value::number")]
    pub collect_interval: u64,
    /// Seconds for which what nothing needs stays at least, at each of the two steps in which it goes.
    #[serde(deserialize_with = "value::number")]
    pub grace: u64,
    /// Seconds after which it is looked again for packs of which less than half is needed, and what is needed of them is copied;
    /// 0: it is not.
    #[serde(deserialize_with = "value::number")]
    pub compact_interval: u64,
    /// Stored bytes that are read in a second for that, at most; 0: as many as can be.
    #[serde(deserialize_with = "value::number")]
    pub compact_rate: u64,
    /// Seconds after which all that is stored is verified again; 0: it is not.
    #[serde(deserialize_with = "value::number")]
    pub verify_interval: u64,
    /// Stored bytes that are read in a second for that, at most; 0: as many as can be.
    #[serde(deserialize_with = "value::number")]
    pub verify_rate: u64,
    /// Seconds for which an upload stays that nobody goes on with.
    #[serde(deserialize_with = "value::number")]
    pub abandoned_after: u64,
    /// Which tags go, and when images without one do: for each repository the first rule that is for it.
    pub retention: Vec<RetentionConfig>,
    /// Whether VirtualImage resources are served too; unset: if only this machine reaches the server, and its data is in
    /// a directory.
    #[serde(deserialize_with = "value::optional_switch")]
    pub embedded_api: Option<bool>,
    /// The directory of resources and volumes; by default the data directory.
    pub state: Option<PathBuf>,
    /// The address of the server for users, in addresses for uploads; by default where it listens.
    #[serde(deserialize_with = "value::parsed")]
    pub public_url: Option<Url>,
    /// The name of the registry for nodes and users, in the status of images; by default where it listens.
    #[serde(deserialize_with = "value::parsed")]
    pub registry_name: Option<RegistryHost>,
    /// What the addresses for uploads are signed with; by default a key of the state directory's own.
    #[serde(deserialize_with = "value::parsed")]
    pub upload_key: Option<UploadKey>,
    /// Seconds for which an image waits to be uploaded.
    #[serde(deserialize_with = "value::number")]
    pub upload_timeout: u64,
    /// Seconds between two checks that an image is still there.
    #[serde(deserialize_with = "value::number")]
    pub presence_interval: u64,
    /// Images that are imported at one time.
    #[serde(deserialize_with = "value::number")]
    pub workers: u64,
    /// Whether sources may be on loopback and link-local addresses; unset: if only this machine reaches the server.
    #[serde(deserialize_with = "value::optional_switch")]
    pub allow_local_sources: Option<bool>,
    /// Networks that sources may not be in.
    #[serde(deserialize_with = "value::networks")]
    pub deny_networks: Vec<IpNet>,
    /// Listen on addresses that others reach without asking anybody who they are.
    #[serde(deserialize_with = "value::switch")]
    pub without_auth: bool,
    /// Who may do what; unset: whoever can connect may do everything.
    pub auth: Option<AuthConfig>,
    /// Who is told of pushes and deletions.
    pub webhooks: Vec<WebhookConfig>,
    /// Operating systems that disks are made from by name.
    pub golden: GoldenConfig,
    /// What one client may.
    pub limits: LimitsConfig,
    /// How much repositories may hold.
    pub quotas: Vec<QuotaConfig>,
    /// The S3 server; what is not given is taken from the usual `AWS_*` variables.
    pub s3: S3Config,
    /// TLS of the server; without a certificate it speaks plain HTTP.
    pub tls: TlsConfig,
}

/// The settings below `s3`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// `http(s)://host:port` of a server other than AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The access key.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<String>,
    /// Address the bucket as part of the host name.
    #[serde(deserialize_with = "value::switch")]
    pub virtual_hosted_style: bool,
    /// Accept a server without conditional put: this process is the only one that writes there.
    #[serde(deserialize_with = "value::switch")]
    pub single_writer: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What becomes of a manifest whose config or layers are not in its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingBlobs {
    /// It is refused, since nobody could pull the image.
    Refuse,
    /// It is stored: for mirrors of parts of images.
    Accept,
}

/// `HOST:PORT`. The host may be a name, which is looked up when the server starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(String);

impl ListenAddress {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self(text)),
            _ => Err(format!("{text:?} is not HOST:PORT, such as 127.0.0.1:5000 or [::]:5000")),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: ListenAddress("127.0.0.1:5000".to_owned()),
            data: "dvcr-data".into(),
            storage: None,
            log_format: LogFormat::Text,
            audit_log: None,
            metrics_listen: None,
            traces_endpoint: None,
            traces_percent: 100,
            log_level: "info".to_owned(),
            idle_timeout: 60,
            header_timeout: 30,
            trusted_proxies: Vec::new(),
            missing_blobs: MissingBlobs::Refuse,
            max_manifest: 4 << 20,
            chunking: true,
            chunk_from: 1 << 20,
            compression: 1,
            chunk_index_memory: 256 << 20,
            read_memory: None,
            collect_interval: 60 * 60,
            compact_interval: 7 * 24 * 60 * 60,
            compact_rate: 50 << 20,
            verify_interval: 30 * 24 * 60 * 60,
            verify_rate: 50 << 20,
            grace: 6 * 60 * 60,
            abandoned_after: 7 * 24 * 60 * 60,
            retention: Vec::new(),
            embedded_api: None,
            state: None,
            public_url: None,
            registry_name: None,
            upload_key: None,
            upload_timeout: 24 * 60 * 60,
            presence_interval: 5 * 60,
            workers: 4,
            allow_local_sources: None,
            deny_networks: Vec::new(),
            without_auth: false,
            auth: None,
            webhooks: Vec::new(),
            golden: GoldenConfig::default(),
            limits: LimitsConfig::default(),
            quotas: Vec::new(),
            s3: S3Config::default(),
            tls: TlsConfig::default(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key that does not exist, or a value that a key cannot have.
    #[error("{0}")]
    Refused(String),
}

impl Config {
    /// Reads the file, if one is named, then the environment, then `flags`.
    pub fn load(file: Option<&Path>, flags: impl Provider) -> Result<Self, Error> {
        Self::load_from(file, std::env::vars(), flags)
    }

    fn load_from(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        flags: impl Provider,
    ) -> Result<Self, Error> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
            figment = figment.merge(Toml::string(&text));
        }
        let config: Self = figment
            .merge(Environment::new(variables))
            .merge(flags)
            .extract()
            .map_err(|error| Error::Refused(explain(error, file)))?;
        config.check()
    }

    fn check(self) -> Result<Self, Error> {
        for (key, value, unit) in [
            ("idle_timeout", self.idle_timeout, " second"),
            ("header_timeout", self.header_timeout, " second"),
            ("grace", self.grace, " second"),
            ("abandoned_after", self.abandoned_after, " second"),
            ("upload_timeout", self.upload_timeout, " second"),
            ("presence_interval", self.presence_interval, " second"),
            ("workers", self.workers, ""),
        ] {
            if value == 0 {
                return Err(Error::Refused(format!("{key} must be at least 1{unit}")));
            }
        }
        for (key, url) in [("public_url", &self.public_url), ("traces_endpoint", &self.traces_endpoint)] {
            if url.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https")) {
                return Err(Error::Refused(format!("{key} must begin with http:// or https://")));
            }
        }
        if self.traces_percent > 100 {
            let message = format!("traces_percent must be at most 100; it is {}", self.traces_percent);
            return Err(Error::Refused(message));
        }
        if self.embedded_api == Some(true) && self.state_directory().is_none() {
            return Err(Error::Refused(
                "embedded_api needs a directory for its resources: name one with `state`, since the data is in a bucket"
                    .to_owned(),
            ));
        }
        if let Some(auth) = &self.auth {
            if self.without_auth {
                let message = "without_auth and [auth] contradict each other; take one of them out";
                return Err(Error::Refused(message.to_owned()));
            }
            auth.check().map_err(Error::Refused)?;
            if auth.token_key.is_none() && self.state_directory().is_none() {
                return Err(Error::Refused(
                    "auth.token_key is missing: all replicas of a registry in a bucket need the same one, 32 random bytes \
                     in Base64, as `openssl rand -base64 32` makes them (a single one may have a directory for it, `state`)"
                        .to_owned(),
                ));
            }
        }
        retention::check(&self.retention, self.grace).map_err(Error::Refused)?;
        if self.max_manifest < 4_000_000 {
            return Err(Error::Refused(format!(
                "max_manifest must be at least 4000000 bytes, which clients may rely on; it is {}",
                self.max_manifest
            )));
        }
        if self.chunk_from > LARGEST_HELD {
            return Err(Error::Refused(format!(
                "chunk_from must be at most {LARGEST_HELD} bytes, which each upload holds in memory; it is {}",
                self.chunk_from
            )));
        }
        if self.compression > 19 {
            let message = format!("compression must be at most 19; it is {}", self.compression);
            return Err(Error::Refused(message));
        }
        if self.s3.access_key_id.is_some() != self.s3.secret_access_key.is_some() {
            return Err(Error::Refused(
                "s3.access_key_id and s3.secret_access_key go together; one is missing".to_owned(),
            ));
        }
        webhooks::check(&self.webhooks).map_err(Error::Refused)?;
        self.golden.check().map_err(Error::Refused)?;
        self.limits.check().map_err(Error::Refused)?;
        quotas::check(&self.quotas).map_err(Error::Refused)?;
        self.tls.check().map_err(|reason| Error::Refused(reason.to_owned()))?;
        Ok(self)
    }

    /// The directory of resources and volumes, if there is one.
    #[must_use]
    pub fn state_directory(&self) -> Option<PathBuf> {
        match (&self.state, self.location()) {
            (Some(state), _) => Some(state.clone()),
            (None, Location::Directory(data)) => Some(data),
            (None, Location::Bucket { .. }) => None,
        }
    }

    /// Where the data is.
    #[must_use]
    pub fn location(&self) -> Location {
        self.storage.clone().unwrap_or_else(|| Location::Directory(self.data.clone()))
    }
}

/// All complaints at once, each with the key and where it stands.
fn explain(error: figment::Error, file: Option<&Path>) -> String {
    error
        .into_iter()
        .map(|error| {
            let key = error.path.join(".");
            let source = match error.metadata.as_ref().map(|metadata| metadata.name.as_ref()) {
                Some("TOML source string") => file.map(|path| path.display().to_string()).unwrap_or_default(),
                Some(name) => name.to_owned(),
                None => "the configuration".to_owned(),
            };
            if key.is_empty() {
                format!("{source}: {}", error.kind)
            } else {
                format!("{source}: {key}: {}", error.kind)
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use figment::providers::Serialized;
    use std::io::Write as _;

    fn file(toml: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        file
    }

    fn load(toml: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, Error> {
        let file = file(toml);
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let flags: std::collections::BTreeMap<_, _> = flags.iter().copied().collect();
        Config::load_from(Some(file.path()), variables, Serialized::globals(flags))
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let toml = "listen = '127.0.0.1:1'\ndata = '/file'\nlog_format = 'json'";
        let variables = [("DVCR_LISTEN", "127.0.0.1:2"), ("DVCR_DATA", "/environment")];
        let config = load(toml, &variables, &[("listen", "127.0.0.1:3")]).unwrap();
        assert_eq!(config.listen.as_str(), "127.0.0.1:3");
        assert_eq!(config.data, Path::new("/environment"));
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn the_example_file_holds_the_defaults() {
        let example = include_str!("../deploy/dvcr.toml");
        assert_eq!(load(example, &[], &[]).unwrap(), Config::default());
    }

    #[test]
    fn values_that_look_like_numbers_stay_what_they_are() {
        let variables = [
            ("DVCR_S3_ACCESS_KEY_ID", "0123"),
            ("DVCR_S3_SECRET_ACCESS_KEY", "true"),
            ("DVCR_IDLE_TIMEOUT", "7"),
            ("DVCR_S3_SINGLE_WRITER", "true"),
            ("DVCR_LIMITS_REQUESTS_PER_SECOND", "50"),
            ("DVCR_TLS_CERTIFICATE", "/tls.crt"),
            ("DVCR_TLS_KEY", "7"),
        ];
        let config = load("", &variables, &[]).unwrap();
        assert_eq!(config.tls.key.as_deref(), Some(Path::new("7")));
        assert_eq!(config.s3.access_key_id.as_deref(), Some("0123"));
        assert_eq!(config.s3.secret_access_key.as_deref(), Some("true"));
        assert_eq!(config.idle_timeout, 7);
        assert_eq!(config.limits.requests_per_second, 50);
        assert!(config.s3.single_writer);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_known_ones() {
        for (toml, variable) in
            [("lisen = 'x'", None), ("", Some(("DVCR_LISEN", "x"))), ("[s3]\nendpont = 'x'", None)]
        {
            let error = load(toml, variable.as_slice(), &[]).unwrap_err().to_string();
            assert!(error.contains("listen") || error.contains("endpoint"), "{error}");
            assert!(error.contains("lisen") || error.contains("endpont"), "{error}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_the_key_and_what_it_may_be() {
        for (toml, key, allowed) in [
            ("log_format = 'xml'", "log_format", "json"),
            ("missing_blobs = 'maybe'", "missing_blobs", "refuse"),
            ("listen = '5000'", "listen", "HOST:PORT"),
            ("idle_timeout = 'soon'", "idle_timeout", "number"),
            ("idle_timeout = 0", "idle_timeout", "at least 1"),
            ("trusted_proxies = ['10.0.0.0/33']", "trusted_proxies", "10.0.0.0/8"),
            ("trusted_proxies = ['proxy.example.com']", "trusted_proxies", "10.0.0.0/8"),
            ("trusted_proxies = '10.0.0.1 10.0.0.2'", "trusted_proxies", "10.0.0.0/8"),
            ("max_manifest = 10", "max_manifest", "4000000"),
            ("chunk_from = 100000000", "chunk_from", "16777216"),
            ("compression = 22", "compression", "19"),
            ("storage = 'gs://x'", "storage", "s3://BUCKET/PREFIX"),
            ("s3.single_writer = 'perhaps'", "s3.single_writer", "true or false"),
            ("s3.access_key_id = 'x'", "s3.secret_access_key", "together"),
            ("limits.burst = 5", "limits.burst", "limits.requests_per_second"),
            ("limits.concurrent_requests = 10000000", "limits.concurrent_requests", "1000000"),
            ("[[quotas]]\nrepositories = ['a']", "quotas, number 1", "bytes or tags"),
            ("[[quotas]]\nrepositories = ['{user}/**']\nbytes = 1", "quotas, number 1", "use *"),
            ("[[quotas]]\nrepositories = ['./vi/**']\nbytes = 1", "quotas, number 1", "name"),
            ("[[quotas]]\nrepositories = []\nbytes = 1", "quotas, number 1", "**"),
            ("tls.key = 'x'", "tls.certificate", "together"),
            ("[[retention]]\nrepositories = ['**']", "retention, number 1", "keep_last"),
            ("[[retention]]\nkeep_lsat = 1", "keep_lsat", "keep_last"),
            ("[[retention]]\nkeep_within = '3y'", "keep_within", "30d"),
            ("[[retention]]\nkeep = ['a/b']", "retention.0.keep", "pattern of tags"),
            ("tls.client_ca = 'x'", "tls.client_ca", "tls.certificate"),
            ("tls.client_certificates = 'never'", "tls.client_certificates", "optional"),
        ] {
            let error = load(toml, &[], &[]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(allowed), "{toml}: {error}");
        }
    }

    #[test]
    fn networks_are_a_list_in_the_file_and_in_the_environment() {
        let networks = ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"].map(|text| text.parse::<IpNet>().unwrap());
        let config = load("trusted_proxies = ['10.1.0.0/8', 'fd00::/8', '192.0.2.1']", &[], &[]).unwrap();
        assert_eq!(config.trusted_proxies, networks);
        let variables = [("DVCR_TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8,192.0.2.1")];
        assert_eq!(load("", &variables, &[]).unwrap().trusted_proxies, networks);
        assert_eq!(load("", &[("DVCR_TRUSTED_PROXIES", "")], &[]).unwrap().trusted_proxies, []);
    }

    #[test]
    fn who_may_do_what_is_read_from_the_file_and_the_rest_from_the_environment() {
        let toml = "[[auth.rules]]\nservice_accounts = ['*/*']\nrepositories = ['vi/{namespace}/**']\n\
                    actions = ['pull', 'push']\n[auth.groups]\nops = ['alice']";
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let variables = [
            ("DVCR_AUTH_HTPASSWD", "/users"),
            ("DVCR_AUTH_TOKEN_KEY", key),
            ("DVCR_AUTH_TOKEN_LIFETIME", "120"),
        ];
        let auth = load(toml, &variables, &[]).unwrap().auth.unwrap();
        assert_eq!(auth.htpasswd.as_deref(), Some(Path::new("/users")));
        assert_eq!((auth.token_lifetime, auth.token_key), (120, Some(key.parse().unwrap())));
        assert_eq!(auth.rules[0].repositories[0].as_str(), "vi/{namespace}/**");
        assert_eq!(auth.groups["ops"], ["alice"]);
        let error = load("", &[("DVCR_AUTH_HTPASWD", "/users")], &[]).unwrap_err().to_string();
        assert!(error.contains("htpaswd") && error.contains("htpasswd"), "{error}");
    }

    #[test]
    fn rules_of_retention_are_read_from_the_file() {
        let toml = "grace = 60\n[[retention]]\nrepositories = ['images/**']\ntags = ['v*']\nkeep = ['latest', 'lts-*']\n\
                    keep_last = 3\nkeep_within = '30d'\nuntagged_after = 3600\n\
                    [[retention]]\nrepositories = ['**']\nuntagged_after = '1d'";
        let rules = load(toml, &[], &[]).unwrap().retention;
        assert_eq!((rules[0].keep_last, rules[0].keep_within), (Some(3), Some(30 * 24 * 60 * 60)));
        assert_eq!((rules[0].untagged_after, rules[0].keep.len(), rules[0].tags.len()), (Some(3600), 2, 1));
        assert_eq!((rules[1].untagged_after, rules[1].keep_last), (Some(24 * 60 * 60), None));
    }

    #[test]
    fn variables_of_kubernetes_and_of_the_client_are_not_settings() {
        let variables = [
            ("DVCR_SERVICE_HOST", "10.0.0.1"),
            ("DVCR_SERVICE_PORT_HTTP", "5000"),
            ("DVCR_PORT", "tcp://10.0.0.1:5000"),
            ("DVCR_PORT_5000_TCP_ADDR", "10.0.0.1"),
            ("DVCR_AUTH_FILE", "/etc/auth.json"),
        ];
        assert_eq!(load("", &variables, &[]).unwrap(), Config::default());
    }
}
