//! [`Authenticator`]: Basic and Bearer, as registries ask for them in `WWW-Authenticate`.
//!
//! A grant is kept for its registry and scope until shortly before it expires, so that a push of many
//! requests asks once.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Request};
use url::Url;

use super::credentials::Credential;
use super::{ClientError, Credentials, Response, Transport};
use crate::oci::{RegistryHost, RepositoryName};

/// How long a token lives whose server does not say (distribution's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_mins(1);

/// A token is taken for expired this long before it is.
const MARGIN: Duration = Duration::from_secs(10);

/// The largest answer of a token server.
const TOKEN_LIMIT: usize = 1 << 20;

/// Knows who we are, and remembers what registries gave for it.
#[derive(Debug)]
pub(super) struct Authenticator {
    credentials: Credentials,
    grants: Mutex<HashMap<(RegistryHost, String), Grant>>,
}

/// What is sent as `Authorization`.
#[derive(Debug, Clone)]
struct Grant {
    header: HeaderValue,
    /// `None`: as long as the process.
    expires: Option<Instant>,
}

/// What a registry asks for, and what else we need: only we know which other repositories a request reads.
fn with_others(asked: &str, needed: &str) -> String {
    let asked: Vec<&str> = asked.split(' ').collect();
    let others = needed.split(' ').skip(1).filter(|scope| !asked.contains(scope));
    asked.iter().copied().chain(others).collect::<Vec<_>>().join(" ")
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Authenticator {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, grants: Mutex::default() }
    }

    /// What to send with a request, if something is known.
    pub(super) fn known(&self, registry: &RegistryHost, scope: &str) -> Option<HeaderValue> {
        let grants = self.grants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let grant = grants.get(&(registry.clone(), scope.to_owned()))?;
        let valid = grant.expires.is_none_or(|expires| Instant::now() + MARGIN < expires);
        valid.then(|| grant.header.clone())
    }

    /// Answers a 401: gets a grant, or says why there is none. `had_grant`: the refused request carried one.
    pub(super) async fn answer(
        &self,
        transport: &Transport,
        registry: &RegistryHost,
        repository: &RepositoryName,
        scope: &str,
        refusal: &Response,
        had_grant: bool,
    ) -> Result<(), ClientError> {
        let unauthorized =
            |reason: String| ClientError::Unauthorized { registry: registry.to_string(), reason };
        let Some(challenge) = challenge(refusal.headers()) else {
            return Err(unauthorized("it refuses and does not say what it wants".to_owned()));
        };
        let is_https = refusal.url().scheme() == "https";
        let credential = self.credential(registry, repository).await?;
        let grant = match (challenge, credential) {
            (Challenge::Basic, Some(Credential::Password { user, password })) if !had_grant => {
                Grant { header: basic(&user, &password), expires: None }
            }
            (Challenge::Basic, None) => {
                return Err(unauthorized(
                    "it wants a user name and a password, and none are configured: use `docker login`"
                        .to_owned(),
                ));
            }
            (Challenge::Basic, Some(_)) => {
                return Err(unauthorized("it does not accept the configured credentials".to_owned()));
            }
            (Challenge::Bearer { realm, service, scope: asked }, credential) => {
                let realm: Url = realm
                    .parse()
                    .map_err(|_| unauthorized(format!("its token server {realm:?} is no URL")))?;
                if is_https && realm.scheme() != "https" {
                    return Err(unauthorized(format!("its token server {realm} is not on HTTPS")));
                }
                let scope = asked.map_or_else(|| scope.to_owned(), |asked| with_others(&asked, scope));
                token(transport, registry, realm, service.as_deref(), &scope, credential).await?
            }
        };
        let mut grants = self.grants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        grants.insert((registry.clone(), scope.to_owned()), grant);
        Ok(())
    }

    async fn credential(
        &self,
        registry: &RegistryHost,
        repository: &RepositoryName,
    ) -> Result<Option<Credential>, ClientError> {
        let (credentials, host, name) = (self.credentials.clone(), registry.clone(), repository.clone());
        tokio::task::spawn_blocking(move || credentials.find(&host, &name)).await.map_err(|error| {
            ClientError::Credentials { registry: registry.to_string(), reason: error.to_string() }
        })?
    }
}

/// `user` and `password` as a header. The base64 of anything is a valid one.
pub(crate) fn basic(user: &str, password: &str) -> HeaderValue {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(&format!("Basic {encoded}")).unwrap_or_else(|| HeaderValue::from_static(""))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The best of the challenges that an answer holds.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        for challenge in http_auth::parse_challenges(value.to_str().ok()?).ok()? {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let get = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
                }
            }
        }
    }
    basic
}

/// What a token server answers.
#[derive(serde::Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds.
    expires_in: Option<u64>,
}

async fn token(
    transport: &Transport,
    registry: &RegistryHost,
    mut realm: Url,
    service: Option<&str>,
    scope: &str,
    credential: Option<Credential>,
) -> Result<Grant, ClientError> {
    let mut fields = vec![("client_id", "dvcr")];
    fields.extend(service.map(|service| ("service", service)));
    // Several scopes are several fields.
    fields.extend(scope.split(' ').filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope)));
    let request = match &credential {
        Some(Credential::IdentityToken(token)) => {
            fields.extend([("grant_type", "refresh_token"), ("refresh_token", token.as_str())]);
            let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
            let mut request = Request::new(Method::POST, realm);
            let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(reqwest::header::CONTENT_TYPE, form_type);
            *request.body_mut() = Some(form.into());
            request
        }
        other => {
            realm.query_pairs_mut().extend_pairs(fields);
            let mut request = Request::new(Method::GET, realm);
            if let Some(Credential::Password { user, password }) = other {
                request.headers_mut().insert(AUTHORIZATION, basic(user, password));
            }
            request
        }
    };
    let response = transport.send(request).await?;
    if matches!(response.status().as_u16(), 401 | 403) {
        let hint = if credential.is_some() { "the configured credentials" } else { "us without credentials" };
        return Err(ClientError::Unauthorized {
            registry: registry.to_string(),
            reason: format!("its token server does not accept {hint}"),
        });
    }
    if !response.status().is_success() {
        return Err(response.into_error().await);
    }
    let wrong = response.protocol("the token server answers without a token");
    let answer: Answer = serde_json::from_slice(&response.body(TOKEN_LIMIT).await?).map_err(|_| {
        ClientError::Unauthorized {
            registry: registry.to_string(),
            reason: "its token server does not answer in JSON".to_owned(),
        }
    })?;
    let Some(header) = answer.token.or(answer.access_token).and_then(|t| secret(&format!("Bearer {t}")))
    else {
        return Err(wrong);
    };
    let lifetime = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs).max(MARGIN * 2);
    Ok(Grant { header, expires: Instant::now().checked_add(lifetime) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        challenge(&headers)
    }

    #[test]
    fn bearer_is_taken_before_basic() {
        let found = challenges(&[
            r#"Basic realm="x""#,
            r#"Bearer realm="https://a.example/token",service="r.example",scope="repository:a/b:pull""#,
        ]);
        let Some(Challenge::Bearer { realm, service, scope }) = found else { panic!("{found:?}") };
        assert_eq!(realm, "https://a.example/token");
        assert_eq!(service.as_deref(), Some("r.example"));
        assert_eq!(scope.as_deref(), Some("repository:a/b:pull"));
    }

    #[test]
    fn other_repositories_are_asked_for_besides_what_the_registry_wants() {
        let asked = "repository:a:pull,push";
        assert_eq!(with_others(asked, "repository:a:push"), asked);
        let needed = "repository:a:pull,push repository:b:pull repository:c:pull";
        assert_eq!(with_others("repository:a:pull,push repository:b:pull", needed), needed);
        assert_eq!(with_others("registry:admin:*", "registry:catalog:*"), "registry:admin:*");
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        assert_eq!(challenges(&[]), None);
        assert_eq!(challenges(&["Negotiate"]), None);
        assert_eq!(challenges(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
    }
}
