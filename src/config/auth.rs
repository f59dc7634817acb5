//! The settings below `auth`: users, whose tokens are taken, and who may do what.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::value;
use crate::auth::{Action, Pattern, TokenKey};

/// Who is let in, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// A file of users and passwords, as `htpasswd -B` writes it.
    pub htpasswd: Option<PathBuf>,
    /// What our tokens are signed with; by default a key of the state directory's own.
    #[serde(deserialize_with = "value::parsed")]
    pub token_key: Option<TokenKey>,
    /// Seconds for which a token is good.
    #[serde(deserialize_with = "value::number")]
    pub token_lifetime: u64,
    /// Seconds for which a refresh token is, with which clients get other tokens without the password.
    #[serde(deserialize_with = "value::number")]
    pub refresh_lifetime: u64,
    /// Groups, and the users in each.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Whose tokens are taken.
    pub issuers: Vec<IssuerConfig>,
    /// Who may do what; none: all users may do everything.
    pub rules: Vec<RuleConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            htpasswd: None,
            token_key: None,
            token_lifetime: 5 * 60,
            refresh_lifetime: 30 * 24 * 60 * 60,
            groups: BTreeMap::new(),
            issuers: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// An `OpenID` provider, or a Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name, as it stands in its tokens.
    pub issuer: String,
    /// Whom its tokens are to be for.
    pub audience: String,
    /// Where its keys are; by default where its `/.well-known/openid-configuration` says.
    #[serde(default, deserialize_with = "value::parsed")]
    pub jwks_url: Option<Url>,
    /// A file with its keys.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// Certificate authorities for its address, in PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A file with a token that its address asks for, as that of Kubernetes does.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Whether its tokens are those of a cluster's service accounts.
    #[serde(default, deserialize_with = "value::switch")]
    pub kubernetes: bool,
    /// The claim with the name of the user.
    #[serde(default = "IssuerConfig::username_claim")]
    pub username_claim: String,
    /// The claim with the groups of the user.
    #[serde(default = "IssuerConfig::groups_claim")]
    pub groups_claim: String,
    /// What is put before both, so that nobody gets the name of somebody else.
    #[serde(default = "IssuerConfig::prefix")]
    pub prefix: String,
}

impl IssuerConfig {
    fn username_claim() -> String {
        "sub".to_owned()
    }

    fn groups_claim() -> String {
        "groups".to_owned()
    }

    fn prefix() -> String {
        "oidc:".to_owned()
    }
}

/// What some may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleConfig {
    /// Users.
    pub users: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Service accounts, as `namespace/name`, with `*`.
    #[serde(deserialize_with = "value::all_parsed")]
    pub service_accounts: Vec<Pattern>,
    /// All users.
    pub authenticated: bool,
    /// All, also without credentials.
    pub anonymous: bool,
    /// Which repositories.
    #[serde(deserialize_with = "value::all_parsed")]
    pub repositories: Vec<Pattern>,
    /// What.
    #[serde(deserialize_with = "value::all_parsed")]
    pub actions: Vec<Action>,
}

impl RuleConfig {
    fn is_for_nobody(&self) -> bool {
        self.users.is_empty()
            && self.groups.is_empty()
            && self.service_accounts.is_empty()
            && !self.authenticated
            && !self.anonymous
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.is_for_nobody() {
            return Err(
                "it is for nobody: name users, groups or service_accounts, or say authenticated = true or \
                        anonymous = true",
            );
        }
        if self.actions.is_empty() {
            return Err("it has no actions: pull, push, delete, admin");
        }
        if self.repositories.is_empty() && self.actions.iter().any(|action| *action != Action::Admin) {
            return Err("it has no repositories; all of them are \"**\"");
        }
        if self.anonymous && self.actions.contains(&Action::Admin) {
            return Err("it lets everybody look after the registry (admin)");
        }
        Ok(())
    }
}

impl AuthConfig {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.token_lifetime < 60 {
            let least =
                "auth.token_lifetime must be at least 60 seconds, for which clients keep a token at least";
            return Err(format!("{least}; it is {}", self.token_lifetime));
        }
        if self.refresh_lifetime < self.token_lifetime {
            return Err("auth.refresh_lifetime must not be less than auth.token_lifetime".to_owned());
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|reason| format!("auth.rules, number {}: {reason}", index + 1))?;
        }
        for issuer in &self.issuers {
            let name = &issuer.issuer;
            let about = |reason: &str| format!("auth.issuers, {name:?}: {reason}");
            if name.is_empty() || name == "dvcr" {
                return Err(about("the name of the issuer is what stands in its tokens as `iss`"));
            }
            if issuer.audience.is_empty() {
                return Err(about("its audience is empty: any token of the issuer would do"));
            }
            if issuer.jwks_url.is_some() && issuer.jwks_file.is_some() {
                return Err(about(
                    "jwks_url and jwks_file are two places for its keys; take one of them out",
                ));
            }
            if self.issuers.iter().filter(|other| other.issuer == *name).count() > 1 {
                return Err(about("it stands there twice"));
            }
        }
        let lets_anybody_in = self.htpasswd.is_some()
            || !self.issuers.is_empty()
            || self.rules.iter().any(|rule| rule.anonymous);
        if !lets_anybody_in {
            return Err("[auth] lets nobody in: name a file of users (auth.htpasswd), an issuer of tokens \
                        ([[auth.issuers]]), or a rule for everybody (anonymous = true)"
                .to_owned());
        }
        Ok(())
    }
}
