//! [`Tokens`]: the built-in issuer: makes and checks the tokens of Docker's token flow.
//!
//! - An *access* token carries what it opens, repository by repository, and lives for minutes. Whoever has it needs nothing
//!   else, and any replica with the key takes it without asking anybody.
//! - A *refresh* token opens nothing. It stands for a login, and is turned into access tokens by the rules of the moment. It
//!   ends when the password changes.
//! - A *work* token is a refresh token that this program makes for itself: it says itself which repositories may be asked for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

use super::{Identity, OURS, Scope, TokenKey, signature};

/// Who has made our tokens.
const ISSUER: &str = "dvcr";

/// Whom they are for: what registries of ours call themselves. The key tells one from another.
pub const SERVICE: &str = "dvcr";

/// The longest token that is looked at.
pub(super) const LONGEST: usize = 16 << 10;

/// Makes and checks tokens.
#[derive(Debug, Clone)]
pub struct Tokens {
    key: TokenKey,
    lifetime: Duration,
    refresh_lifetime: Duration,
}

/// What a token is for. One is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Purpose {
    Access,
    Refresh,
    Work,
}

/// What stands in a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
    #[serde(rename = "use")]
    purpose: Purpose,
    #[serde(flatten)]
    identity: Identity,
    /// What an access token opens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    access: Vec<Scope>,
    /// What a work token may be turned into: patterns and actions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    may: Vec<(String, String)>,
    /// Which password a refresh token stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

impl Claims {
    fn new(purpose: Purpose, identity: &Identity, lifetime: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            iss: ISSUER.to_owned(),
            aud: SERVICE.to_owned(),
            iat: now,
            exp: now.saturating_add(lifetime.as_secs()),
            purpose,
            identity: identity.clone(),
            access: Vec::new(),
            may: Vec::new(),
            password: None,
        }
    }
}

/// A token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was not made here, was changed, or is of another kind.
    #[error("the token is not valid here")]
    Unknown,
}

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) identity: Identity,
    pub(super) scopes: Vec<Scope>,
}

/// What stands for a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// A user, with what tells the password.
    Refresh { identity: Identity, password: String },
    /// This program itself, with what it may.
    Work { identity: Identity, may: Vec<(String, String)> },
}

/// An access token, made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// How long it lives.
    pub lifetime: Duration,
    /// Since when.
    pub issued: SystemTime,
}

impl Tokens {
    /// Tokens that are good for so long, and refresh tokens that are good for so long.
    #[must_use]
    pub fn new(key: TokenKey, lifetime: Duration, refresh_lifetime: Duration) -> Self {
        signature::install();
        Self { key, lifetime, refresh_lifetime }
    }

    pub(super) fn key(&self) -> &TokenKey {
        &self.key
    }

    fn sign(&self, claims: &Claims) -> String {
        // Fails for claims that are no JSON and for keys of another kind, which ours are not.
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.key.encoding()).unwrap_or_default()
    }

    /// A token that opens these scopes.
    pub(super) fn access(&self, identity: &Identity, scopes: Vec<Scope>) -> Issued {
        let claims = Claims { access: scopes, ..Claims::new(Purpose::Access, identity, self.lifetime) };
        let issued = UNIX_EPOCH.checked_add(Duration::from_secs(claims.iat)).unwrap_or(UNIX_EPOCH);
        Issued { token: self.sign(&claims), lifetime: self.lifetime, issued }
    }

    /// A token that stands for a login with the password that `password` tells.
    pub(super) fn refresh(&self, identity: &Identity, password: String) -> String {
        let claims = Claims::new(Purpose::Refresh, identity, self.refresh_lifetime);
        self.sign(&Claims { password: Some(password), ..claims })
    }

    /// A token of this program's own, with which access to the repositories that fit the patterns can be asked for.
    #[must_use]
    pub fn work(&self, name: &str, may: &[(&str, &str)], lifetime: Duration) -> String {
        let owned = may.iter().map(|(pattern, actions)| ((*pattern).to_owned(), (*actions).to_owned()));
        // A name that no user has: theirs have no colon.
        let identity = Identity::user(&format!("{OURS}{name}"));
        self.sign(&Claims { may: owned.collect(), ..Claims::new(Purpose::Work, &identity, lifetime) })
    }

    fn read(&self, token: &str) -> Result<Claims, InvalidToken> {
        if token.len() > LONGEST {
            return Err(InvalidToken::Unknown);
        }
        let mut wanted = Validation::new(Algorithm::HS256);
        wanted.leeway = 0;
        wanted.set_issuer(&[ISSUER]);
        wanted.set_audience(&[SERVICE]);
        wanted.set_required_spec_claims(&["exp", "iss", "aud"]);
        match jsonwebtoken::decode::<Claims>(token, &self.key.decoding(), &wanted) {
            Ok(read) => Ok(read.claims),
            Err(error) if *error.kind() == jsonwebtoken::errors::ErrorKind::ExpiredSignature => {
                Err(InvalidToken::Expired)
            }
            Err(_) => Err(InvalidToken::Unknown),
        }
    }

    /// What an access token says.
    pub(super) fn check(&self, token: &str) -> Result<Access, InvalidToken> {
        let claims = self.read(token)?;
        match claims.purpose {
            Purpose::Access => Ok(Access { identity: claims.identity, scopes: claims.access }),
            Purpose::Refresh | Purpose::Work => Err(InvalidToken::Unknown),
        }
    }

    /// The login that a refresh token or a work token stands for.
    pub(super) fn login(&self, token: &str) -> Result<Login, InvalidToken> {
        let Claims { purpose, identity, password, may, .. } = self.read(token)?;
        match (purpose, password) {
            (Purpose::Refresh, Some(password)) => Ok(Login::Refresh { identity, password }),
            (Purpose::Work, None) => Ok(Login::Work { identity, may }),
            _ => Err(InvalidToken::Unknown),
        }
    }

    /// Whether a token says of itself that it is ours, whatever is behind that.
    pub(super) fn is_ours(token: &str) -> bool {
        issuer_of(token).as_deref() == Some(ISSUER)
    }
}

/// The issuer that a token names. Nothing is verified: it only tells whom to ask for the key.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        iss: String,
    }
    if token.len() > LONGEST {
        return None;
    }
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<Named>(&claims).ok().map(|named| named.iss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Action, Actions};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn tokens() -> Tokens {
        Tokens::new(TokenKey::random(), Duration::from_mins(5), Duration::from_hours(1))
    }

    fn alice() -> Identity {
        Identity::user("alice")
    }

    fn pull(name: &str) -> Scope {
        Scope::repository(name, Actions::from(Action::Pull))
    }

    /// A token of these claims with this header, signed with this key, whatever it is.
    fn forged(header: &Value, claims: &Value, key: &[u8]) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let proof = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()));
        format!("{message}.{proof}")
    }

    fn good_claims() -> Value {
        let exp = jsonwebtoken::get_current_timestamp() + 60;
        json!({ "iss": "dvcr", "aud": "dvcr", "iat": 0, "exp": exp, "use": "access", "sub": "alice",
                "access": [{ "type": "repository", "name": "a", "actions": ["pull"] }] })
    }

    fn fixed() -> (Tokens, [u8; 32]) {
        let bytes = [7; 32];
        let key = base64::engine::general_purpose::STANDARD.encode(bytes).parse().unwrap();
        (Tokens::new(key, Duration::from_mins(5), Duration::from_hours(1)), bytes)
    }

    #[test]
    fn a_token_says_who_and_what_and_nothing_more() {
        let tokens = tokens();
        let issued = tokens.access(&alice(), vec![pull("a/b")]);
        let read = tokens.check(&issued.token).unwrap();
        assert_eq!(read, Access { identity: alice(), scopes: vec![pull("a/b")] });
        assert!(Tokens::is_ours(&issued.token));
    }

    #[test]
    fn a_token_of_one_kind_is_never_taken_for_another() {
        let tokens = tokens();
        let access = tokens.access(&alice(), vec![]).token;
        let refresh = tokens.refresh(&alice(), "x".to_owned());
        let work = tokens.work("import", &[("vi/**", "pull")], Duration::from_mins(1));
        assert_eq!(tokens.check(&refresh), Err(InvalidToken::Unknown));
        assert_eq!(tokens.check(&work), Err(InvalidToken::Unknown));
        assert_eq!(tokens.login(&access), Err(InvalidToken::Unknown));
        assert!(matches!(tokens.login(&refresh), Ok(Login::Refresh { .. })));
        assert!(matches!(tokens.login(&work), Ok(Login::Work { .. })));
    }

    #[test]
    fn a_token_of_another_key_opens_nothing() {
        let (mine, other) = (tokens(), tokens());
        let token = other.access(&alice(), vec![pull("a")]).token;
        assert_eq!(mine.check(&token), Err(InvalidToken::Unknown));
    }

    #[test]
    fn forged_and_incomplete_tokens_are_refused() {
        let (tokens, key) = fixed();
        let header = json!({ "alg": "HS256", "typ": "JWT" });
        assert!(tokens.check(&forged(&header, &good_claims(), &key)).is_ok());
        assert!(tokens.check(&forged(&header, &good_claims(), &[8; 32])).is_err());
        for alg in ["none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "EdDSA", "", "hs256"] {
            let header = json!({ "alg": alg, "typ": "JWT" });
            assert!(tokens.check(&forged(&header, &good_claims(), &key)).is_err(), "{alg}");
            let unsigned = forged(&header, &good_claims(), &key);
            let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
            assert!(tokens.check(&unsigned).is_err(), "{alg}");
        }
        for claim in ["iss", "aud", "exp", "use"] {
            let mut claims = good_claims();
            claims.as_object_mut().unwrap().remove(claim);
            assert!(tokens.check(&forged(&header, &claims, &key)).is_err(), "without {claim}");
        }
        for (claim, value) in [
            ("iss", json!("other")),
            ("aud", json!("other")),
            ("aud", json!(["dvcr", "other"])),
            ("exp", json!("9999999999")),
            ("exp", json!(-1)),
            ("exp", json!(null)),
            ("use", json!("admin")),
        ] {
            let mut claims = good_claims();
            claims[claim] = value;
            assert!(tokens.check(&forged(&header, &claims, &key)).is_err(), "{claims}");
        }
    }

    #[test]
    fn an_expired_token_is_said_to_be_one() {
        let (tokens, key) = fixed();
        let mut claims = good_claims();
        claims["exp"] = json!(jsonwebtoken::get_current_timestamp() - 1);
        let token = forged(&json!({ "alg": "HS256", "typ": "JWT" }), &claims, &key);
        assert_eq!(tokens.check(&token), Err(InvalidToken::Expired));
    }

    proptest! {
        #[test]
        fn a_token_with_any_letter_changed_opens_nothing(at in 0_usize..400, letter in "[A-Za-z0-9._-]") {
            let (tokens, _) = fixed();
            let token = tokens.access(&alice(), vec![pull("a")]).token;
            let at = at % token.len();
            prop_assume!(token[at..=at] != letter);
            let mut changed = token.clone();
            changed.replace_range(at..=at, &letter);
            // The last letter of Base64 has bits that mean nothing, which the decoder refuses or ignores.
            let means_the_same = at + 1 == token.len() && tokens.check(&changed).is_ok();
            prop_assert!(tokens.check(&changed).is_err() || means_the_same);
        }

        #[test]
        fn whatever_is_sent_is_refused_and_nothing_panics(text in "\\PC{0,300}") {
            let (tokens, _) = fixed();
            prop_assert!(tokens.check(&text).is_err() && tokens.login(&text).is_err());
            let _ = issuer_of(&text);
        }
    }
}
