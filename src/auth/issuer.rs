//! [`Issuer`]: tokens that somebody else has signed: an `OpenID` provider, or a Kubernetes cluster for its service accounts.
//!
//! A token is taken if it is of this issuer, for us, not over, and signed with one of the issuer's public keys by an algorithm
//! with two keys: what is public must not do as the secret of another algorithm.

use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};

use super::issuer_keys::{Fetch, IssuerKeys, KeySource};
use super::token::LONGEST;
use super::{Identity, InvalidToken, Refusal, signature};

/// Seconds by which clocks may differ.
const LEEWAY: u64 = 30;

/// Groups that are taken over from one token.
const MOST_GROUPS: usize = 256;

/// Algorithms with a public key.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What is known of an issuer.
#[derive(Debug, Clone)]
pub struct IssuerOptions {
    /// Its name, as it stands in its tokens.
    pub issuer: String,
    /// Its tokens are for us if they are for one of these.
    pub audience: Vec<String>,
    /// Where its keys are.
    pub keys: KeySource,
    /// How they are fetched.
    pub fetch: Arc<dyn Fetch>,
    /// Whether its tokens are those of a cluster's service accounts.
    pub kubernetes: bool,
    /// The claim with the user's name.
    pub username_claim: String,
    /// The claim with the user's groups.
    pub groups_claim: String,
    /// What is put before the names of users and groups, so that they are no others'.
    pub prefix: String,
}

/// Somebody whose tokens we take.
#[derive(Debug)]
pub(super) struct Issuer {
    options: IssuerOptions,
    keys: IssuerKeys,
}

impl Issuer {
    pub(super) fn new(options: IssuerOptions) -> Self {
        signature::install();
        let keys = IssuerKeys::new(&options.issuer, options.keys.clone(), Arc::clone(&options.fetch));
        Self { options, keys }
    }

    pub(super) fn name(&self) -> &str {
        &self.options.issuer
    }

    /// Who a token says that its bearer is.
    pub(super) async fn identify(&self, token: &str) -> Result<Identity, Refusal> {
        let unknown = Refusal::Token(InvalidToken::Unknown);
        if token.len() > LONGEST {
            return Err(unknown);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| unknown.clone())?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(unknown);
        }
        let keys = self.keys.find(header.kid.as_deref()).await.map_err(Refusal::Unavailable)?;
        let mut refusal = unknown;
        for key in keys.iter().filter(|key| fits(key, header.alg)) {
            match self.verify(token, key, header.alg) {
                Ok(claims) => {
                    let identity = self.identity(&claims);
                    return identity.ok_or(Refusal::Token(InvalidToken::Unknown));
                }
                Err(InvalidToken::Expired) => refusal = Refusal::Token(InvalidToken::Expired),
                Err(InvalidToken::Unknown) => {}
            }
        }
        Err(refusal)
    }

    fn verify(
        &self,
        token: &str,
        key: &Jwk,
        algorithm: Algorithm,
    ) -> Result<Map<String, Value>, InvalidToken> {
        let key = DecodingKey::from_jwk(key).map_err(|_| InvalidToken::Unknown)?;
        let mut wanted = Validation::new(algorithm);
        wanted.leeway = LEEWAY;
        wanted.validate_nbf = true;
        wanted.set_issuer(&[&self.options.issuer]);
        wanted.set_audience(&self.options.audience);
        wanted.set_required_spec_claims(&["exp", "iss", "aud"]);
        match jsonwebtoken::decode(token, &key, &wanted) {
            Ok(read) => Ok(read.claims),
            Err(error) if *error.kind() == jsonwebtoken::errors::ErrorKind::ExpiredSignature => {
                Err(InvalidToken::Expired)
            }
            Err(_) => Err(InvalidToken::Unknown),
        }
    }

    fn identity(&self, claims: &Map<String, Value>) -> Option<Identity> {
        let text = |claim: &str| claims.get(claim)?.as_str();
        if self.options.kubernetes {
            return Identity::service_account(text("sub")?);
        }
        let IssuerOptions { prefix, username_claim, groups_claim, .. } = &self.options;
        let user = text(username_claim)?;
        let name = format!("{prefix}{user}");
        // Names that only a cluster and this program itself give.
        let is_reserved = name.starts_with("system:") || name.starts_with("dvcr:");
        if user.is_empty() || is_reserved || name.chars().any(char::is_control) {
            return None;
        }
        let groups = match claims.get(groups_claim) {
            Some(Value::String(group)) => vec![format!("{prefix}{group}")],
            Some(Value::Array(groups)) => {
                let groups = groups.iter().filter_map(Value::as_str).take(MOST_GROUPS);
                groups.map(|group| format!("{prefix}{group}")).collect()
            }
            _ => Vec::new(),
        };
        let groups = groups.into_iter().filter(|group| !group.starts_with("system:")).collect();
        Some(Identity { groups, ..Identity::user(&name) })
    }
}

/// Whether a key is for signatures by this algorithm.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let for_signatures = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    let named = key.common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    let shape = match &key.algorithm {
        AlgorithmParameters::RSA(_) => {
            !matches!(algorithm, Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(curve) => match algorithm {
            Algorithm::ES256 => curve.curve == EllipticCurve::P256,
            Algorithm::ES384 => curve.curve == EllipticCurve::P384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(pair) => {
            algorithm == Algorithm::EdDSA && pair.curve == EllipticCurve::Ed25519
        }
        // A secret has no place among public keys.
        _ => false,
    };
    for_signatures && named && shape
}
