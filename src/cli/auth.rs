//! Who may do what, from the settings: the [`Authority`] of `dvcr serve`, and the tokens that this program gives itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Request};
use url::{Host, Origin, Url};

use super::Failure;
use crate::auth::{
    Authority, AuthorityOptions, Fetch, IssuerOptions, KeySource, Rule, Rules, TokenKey, Tokens, Who,
};
use crate::client::{IdentityTokens, Transport, TransportOptions};
use crate::config::{AuthConfig, Config, IssuerConfig, RuleConfig};
use crate::oci::ALL_UPLOADED_FILES;

/// The largest document of an issuer.
const DOCUMENT: usize = 1 << 20;

/// For how long an issuer may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long a token is good that this program makes for itself, each time it needs one.
const OWN: Duration = Duration::from_mins(5);

/// Who is asked who may do what, and what makes tokens.
pub(super) struct Auth {
    pub(super) authority: Arc<Authority>,
    pub(super) tokens: Tokens,
}

/// Reads whom `config` lets in; `None`: whoever can connect.
pub(super) fn open(config: &Config) -> Result<Option<Auth>, Failure> {
    let Some(auth) = &config.auth else { return Ok(None) };
    let key = match (&auth.token_key, config.state_directory()) {
        (Some(key), _) => key.clone(),
        (None, Some(state)) => {
            let failed =
                |error| Failure::because(format!("cannot keep a key in {}", state.display()), &error);
            std::fs::create_dir_all(&state).map_err(failed)?;
            TokenKey::of_file(&state.join("token-key")).map_err(failed)?
        }
        // Refused with the settings.
        (None, None) => return Err(Failure::Usage("auth.token_key is missing".to_owned())),
    };
    let seconds = Duration::from_secs;
    let tokens = Tokens::new(key, seconds(auth.token_lifetime), seconds(auth.refresh_lifetime));
    let authority = Authority::new(AuthorityOptions {
        rules: rules(auth),
        groups: auth.groups.clone(),
        htpasswd: auth.htpasswd.clone(),
        issuers: auth.issuers.iter().map(issuer).collect::<Result<_, _>>()?,
        tokens: tokens.clone(),
    });
    let authority = authority.map_err(|error| Failure::Usage(format!("auth.htpasswd: {error}")))?;
    Ok(Some(Auth { authority: Arc::new(authority), tokens }))
}

/// Refuses to listen where others can connect while nobody is asked who they are.
pub(super) fn check_address(config: &Config, address: SocketAddr) -> Result<(), Failure> {
    if address.ip().is_loopback() || config.auth.is_some() || config.without_auth {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "others than this machine reach {address}, and nobody is asked who they are: say who may do what below [auth] \
         in the configuration file (DVCR_AUTH_HTPASSWD is the least), or let everybody do everything with --without-auth \
         (DVCR_WITHOUT_AUTH=true), where something else keeps strangers out"
    )))
}

fn rules(config: &AuthConfig) -> Rules {
    let rule = |rule: &RuleConfig| Rule {
        who: Who {
            users: rule.users.clone(),
            groups: rule.groups.clone(),
            service_accounts: rule.service_accounts.clone(),
            authenticated: rule.authenticated,
            anonymous: rule.anonymous,
        },
        repositories: rule.repositories.clone(),
        actions: rule.actions.iter().copied().collect(),
    };
    Rules(config.rules.iter().map(rule).collect())
}

fn issuer(config: &IssuerConfig) -> Result<IssuerOptions, Failure> {
    let wrong =
        |error: &dyn std::fmt::Display| Failure::Usage(format!("auth.issuers, {:?}: {error}", config.issuer));
    let authority = config.ca_file.as_deref().map(|path| {
        std::fs::read(path).map_err(|error| wrong(&format!("ca_file {}: {error}", path.display())))
    });
    let options = TransportOptions {
        authorities: authority.transpose()?.into_iter().collect(),
        patience: PATIENCE,
        ..TransportOptions::default()
    };
    let transport = Transport::new(&options).map_err(|error| wrong(&error))?;
    let asked = config.jwks_url.clone().map_or_else(|| config.issuer.parse::<Url>(), Ok);
    let origin = asked.map_err(|error| wrong(&error))?.origin();
    let keys = match (&config.jwks_file, &config.jwks_url) {
        (Some(path), _) => {
            // What is wrong with a file is better known now than at the first login.
            std::fs::metadata(path)
                .map_err(|error| wrong(&format!("jwks_file {}: {error}", path.display())))?;
            KeySource::File(path.clone())
        }
        (None, Some(url)) => KeySource::Url(url.clone()),
        (None, None) => KeySource::Discovery,
    };
    Ok(IssuerOptions {
        issuer: config.issuer.clone(),
        audience: vec![config.audience.clone()],
        keys,
        fetch: Arc::new(Documents { transport, token: config.token_file.clone(), origin }),
        kubernetes: config.kubernetes,
        username_claim: config.username_claim.clone(),
        groups_claim: config.groups_claim.clone(),
        prefix: config.prefix.clone(),
    })
}

/// Fetches the documents of an issuer.
#[derive(Debug)]
struct Documents {
    transport: Transport,
    /// A file with a token, which is read each time: it changes.
    token: Option<PathBuf>,
    /// Who gets that token.
    origin: Origin,
}

#[async_trait]
impl Fetch for Documents {
    async fn fetch(&self, url: &Url) -> Result<Vec<u8>, String> {
        // Whoever is on the way could put in keys of their own.
        if url.scheme() != "https" && !is_local(url) {
            return Err(format!("{url} is not on HTTPS"));
        }
        let mut request = Request::new(Method::GET, url.clone());
        if let Some(path) = self.token.as_ref().filter(|_| self.origin == url.origin()) {
            request.headers_mut().insert(AUTHORIZATION, bearer(path).await?);
        }
        // A redirect is followed by nobody: it may lead where anyone can answer.
        let response = self.transport.send(request).await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("{url} answers {}", response.status()));
        }
        let body = response.body(DOCUMENT).await.map_err(|error| error.to_string())?;
        Ok(body.to_vec())
    }
}

async fn bearer(path: &Path) -> Result<HeaderValue, String> {
    let token =
        tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    let mut header = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| format!("{} holds no token", path.display()))?;
    header.set_sensitive(true);
    Ok(header)
}

fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// What the controller says of itself to the registry whose key it has: it looks after images, and after nothing else.
#[derive(Debug)]
pub(super) struct ControllerTokens(pub(super) Tokens);

impl IdentityTokens for ControllerTokens {
    fn identity_token(&self) -> String {
        let all = "pull,push,delete";
        self.0.work("controller", &[("vi/**", all), ("cvi/**", all), (ALL_UPLOADED_FILES, "pull")], OWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_others_connect_somebody_is_asked_or_that_is_said_not_to_be_wanted() {
        let loopback = ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1"];
        let elsewhere = ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[2001:db8::1]:1"];
        let nothing = Config::default();
        let open = Config { without_auth: true, ..Config::default() };
        let closed = Config { auth: Some(AuthConfig::default()), ..Config::default() };
        for address in loopback.iter().chain(&elsewhere).map(|text| text.parse::<SocketAddr>().unwrap()) {
            assert_eq!(check_address(&nothing, address).is_ok(), address.ip().is_loopback(), "{address}");
            assert!(check_address(&open, address).is_ok() && check_address(&closed, address).is_ok());
        }
        let error = check_address(&nothing, "[::]:1".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("[auth]") && error.contains("--without-auth"), "{error}");
    }
}
