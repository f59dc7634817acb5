//! [`Authority`]: says who somebody is by what they send, and gives out tokens.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::issuer::Issuer;
use super::passwords::{PasswordFileError, Passwords};
use super::token::{Access, Login, issuer_of};
use super::{
    Actions, Caller, Credential, Identity, InvalidToken, Issued, IssuerOptions, Pattern, Rules, Scope, Tokens,
};

/// What an authority goes by.
#[derive(Debug)]
pub struct AuthorityOptions {
    /// Who may do what.
    pub rules: Rules,
    /// Groups, and the users in each.
    pub groups: BTreeMap<String, Vec<String>>,
    /// A file of users and passwords.
    pub htpasswd: Option<PathBuf>,
    /// Whose tokens are taken besides our own.
    pub issuers: Vec<IssuerOptions>,
    /// Our own tokens.
    pub tokens: Tokens,
}

/// Says who somebody is.
#[derive(Debug)]
pub struct Authority {
    rules: Arc<Rules>,
    groups: BTreeMap<String, Vec<String>>,
    passwords: Option<Arc<Passwords>>,
    issuers: Vec<Issuer>,
    tokens: Tokens,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// User or password are wrong; which of them is not said.
    #[error("the user or the password is wrong")]
    Wrong,
    /// A token is not good.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// Too many wrong passwords.
    #[error("too many wrong passwords; wait a moment")]
    Throttled(Duration),
    /// The issuer of a token cannot be asked for its keys. Why is in the log.
    #[error("the keys of the token's issuer cannot be had now")]
    Unavailable(String),
}

/// Somebody who can be given tokens.
#[derive(Debug, Clone)]
pub struct Known {
    identity: Identity,
    proof: Proof,
}

#[derive(Debug, Clone)]
enum Proof {
    /// Nothing, or a token of somebody else.
    Other,
    /// A password, which is told by this.
    Password(String),
    /// A work token, for these repositories.
    Work(Vec<(Pattern, Actions)>),
}

impl Known {
    /// Somebody who has said nothing.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { identity: Identity::anonymous(), proof: Proof::Other }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Authority {
    /// An authority. Fails when the file of users cannot be used.
    pub fn new(options: AuthorityOptions) -> Result<Self, PasswordFileError> {
        let AuthorityOptions { rules, groups, htpasswd, issuers, tokens } = options;
        let passwords = htpasswd.map(|path| Passwords::open(&path)).transpose()?.map(Arc::new);
        let issuers = issuers.into_iter().map(Issuer::new).collect();
        Ok(Self { rules: Arc::new(rules), groups, passwords, issuers, tokens })
    }

    /// Takes over what changes in the file of users, for ever.
    pub fn follow(&self) -> impl Future<Output = ()> + Send + 'static {
        let passwords = self.passwords.clone();
        async move {
            if let Some(passwords) = passwords {
                passwords.follow().await;
            }
        }
    }

    /// Who asks, by what they send with a request.
    pub async fn identify(
        &self,
        credential: Option<Credential>,
        client: Option<IpAddr>,
    ) -> Result<Caller, Refusal> {
        match credential {
            None => Ok(Caller::by_rules(Identity::anonymous(), &self.rules)),
            Some(Credential::Bearer(token)) if Tokens::is_ours(&token) => {
                let Access { identity, scopes } = self.tokens.check(&token)?;
                Ok(Caller::by_token(identity, &self.rules, scopes))
            }
            Some(Credential::Bearer(token)) => {
                Ok(Caller::by_rules(self.by_issuer(&token).await?, &self.rules))
            }
            Some(Credential::Basic { user, password }) => {
                let known = self.login(&user, &password, client).await?;
                Ok(Caller::by_rules(known.identity, &self.rules))
            }
        }
    }

    /// Who has this password, which may be a token of an issuer.
    pub async fn login(&self, user: &str, password: &str, client: Option<IpAddr>) -> Result<Known, Refusal> {
        let issuer = issuer_of(password).filter(|name| self.issuers.iter().any(|one| one.name() == *name));
        if issuer.is_some() {
            // Its name is in the token.
            return Ok(Known { identity: self.by_issuer(password).await?, proof: Proof::Other });
        }
        let passwords = self.passwords.as_ref().ok_or(Refusal::Wrong)?;
        passwords.check(user, password, client).await?;
        let mark = passwords.mark(self.tokens.key(), user).ok_or(Refusal::Wrong)?;
        Ok(Known { identity: self.in_groups(Identity::user(user)), proof: Proof::Password(mark) })
    }

    /// Who a refresh token stands for.
    pub fn refreshed(&self, token: &str) -> Result<Known, Refusal> {
        match self.tokens.login(token)? {
            Login::Refresh { identity, password } => {
                let user = identity.user.as_deref().unwrap_or_default();
                let mark = self.passwords.as_ref().and_then(|known| known.mark(self.tokens.key(), user));
                if mark.as_ref() != Some(&password) {
                    return Err(InvalidToken::Unknown.into());
                }
                Ok(Known { identity: self.in_groups(Identity::user(user)), proof: Proof::Password(password) })
            }
            Login::Work { identity, may } => {
                let may = may.iter().filter_map(|(pattern, actions)| {
                    let actions = actions.split(',').filter_map(|action| action.parse().ok());
                    Some((pattern.parse().ok()?, actions.collect::<Actions>()))
                });
                Ok(Known { identity, proof: Proof::Work(may.collect()) })
            }
        }
    }

    async fn by_issuer(&self, token: &str) -> Result<Identity, Refusal> {
        let name = issuer_of(token).ok_or(InvalidToken::Unknown)?;
        let issuer = self.issuers.iter().find(|one| one.name() == name).ok_or(InvalidToken::Unknown)?;
        Ok(self.in_groups(issuer.identify(token).await?))
    }

    fn in_groups(&self, mut identity: Identity) -> Identity {
        if let Some(user) = &identity.user {
            let of_user = self.groups.iter().filter(|(_, users)| users.contains(user));
            identity.groups.extend(of_user.map(|(group, _)| group.clone()));
        }
        identity
    }

    /// A token for as much of what is asked for as is allowed, which may be nothing.
    #[must_use]
    pub fn grant(&self, known: &Known, asked: &[Scope]) -> Issued {
        let granted = asked.iter().filter_map(|scope| self.granted(known, scope)).collect();
        self.tokens.access(&known.identity, granted)
    }

    fn granted(&self, known: &Known, scope: &Scope) -> Option<Scope> {
        let Some(repository) = scope.of_repository() else {
            let is_work = matches!(known.proof, Proof::Work(_));
            let is_granted = (*scope == Scope::catalog() && !is_work)
                || (*scope == Scope::admin() && !is_work && self.rules.allow_admin(&known.identity));
            return is_granted.then(|| scope.clone());
        };
        let allowed = match &known.proof {
            Proof::Work(may) => may
                .iter()
                .filter(|(pattern, _)| pattern.fits(repository, &known.identity))
                .fold(Actions::default(), |all, (_, actions)| all.or(*actions)),
            Proof::Other | Proof::Password(_) => self.rules.allowed(&known.identity, repository),
        };
        let granted = allowed.and(scope.actions());
        (!granted.is_empty()).then(|| Scope::repository(repository, granted))
    }

    /// A refresh token, for those who have given a password.
    #[must_use]
    pub fn remember(&self, known: &Known) -> Option<String> {
        match &known.proof {
            Proof::Password(mark) => Some(self.tokens.refresh(&known.identity, mark.clone())),
            Proof::Other | Proof::Work(_) => None,
        }
    }
}
