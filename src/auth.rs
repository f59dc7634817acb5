//! Who somebody is, and what they may do.
//!
//! Nothing here knows HTTP or the registry: a request comes as a [`Credential`], and leaves as a [`Caller`], who may or may not
//! do an [`Action`] with a repository. What no rule allows is denied.
//!
//! - `rule.rs` and `pattern.rs`: who may do what.
//! - `htpasswd.rs`, `passwords.rs` and `throttle.rs`: users by password, and how often one may guess.
//! - `token.rs`, `scope.rs` and `key.rs`: our own tokens, as Docker's specification has them.
//! - `issuer.rs` and `issuer_keys.rs`: tokens of others.
//! - `authority.rs`: all of these together.

mod action;
mod authority;
mod caller;
mod credential;
mod htpasswd;
mod identity;
mod issuer;
mod issuer_keys;
mod key;
mod passwords;
mod pattern;
mod rule;
mod scope;
mod signature;
mod throttle;
mod token;

pub use action::{Action, Actions, UnknownAction};
pub use authority::{Authority, AuthorityOptions, Known, Refusal};
pub use caller::Caller;
pub use credential::{Credential, InvalidCredential};
pub use htpasswd::InvalidHtpasswd;
pub use identity::{Identity, OURS};
pub use issuer::IssuerOptions;
pub use issuer_keys::{Fetch, KeySource};
pub use key::{InvalidTokenKey, TokenKey};
pub use passwords::PasswordFileError;
pub use pattern::{InvalidPattern, Pattern};
pub use rule::{Rule, Rules, Who};
pub use scope::Scope;
pub use throttle::network;
pub use token::{InvalidToken, Issued, SERVICE, Tokens};
