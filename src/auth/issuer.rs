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
use super::{Identity, InvalidToken, OURS, Refusal, signature};

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
        let is_reserved = name.starts_with("system:") || name.starts_with(OURS);
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

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    };
    use serde_json::json;
    use url::Url;

    const NAME: &str = "https://id.example";

    /// An issuer whose keys are these, and how often it was asked.
    #[derive(Debug)]
    struct Keys(Value, std::sync::atomic::AtomicUsize);

    #[async_trait]
    impl Fetch for Keys {
        async fn fetch(&self, url: &Url) -> Result<Vec<u8>, String> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            match url.path() {
                "/.well-known/openid-configuration" => {
                    Ok(json!({ "issuer": NAME, "jwks_uri": format!("{NAME}/keys") }).to_string().into_bytes())
                }
                "/keys" => Ok(self.0.to_string().into_bytes()),
                other => Err(format!("there is no {other}")),
            }
        }
    }

    fn issuer_of(keys: &[Value]) -> (Issuer, Arc<Keys>) {
        let fetch = Arc::new(Keys(json!({ "keys": keys }), std::sync::atomic::AtomicUsize::new(0)));
        let issuer = Issuer::new(IssuerOptions {
            issuer: NAME.to_owned(),
            audience: vec!["dvcr".to_owned()],
            keys: KeySource::Discovery,
            fetch: Arc::clone(&fetch) as Arc<dyn Fetch>,
            kubernetes: false,
            username_claim: "sub".to_owned(),
            groups_claim: "groups".to_owned(),
            prefix: "oidc:".to_owned(),
        });
        (issuer, fetch)
    }

    fn claims() -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({ "iss": NAME, "aud": "dvcr", "sub": "carol", "exp": now + 60, "groups": ["a", "system:masters"] })
    }

    fn message(alg: &str, kid: Option<&str>) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = kid.map_or_else(|| json!({ "alg": alg }), |kid| json!({ "alg": alg, "kid": kid }));
        format!("{}.{}", part(header), part(claims()))
    }

    fn with_proof(message: &str, proof: &[u8]) -> String {
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(proof))
    }

    fn ed() -> (Ed25519KeyPair, Value) {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x });
        (key, jwk)
    }

    fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &str) -> (EcdsaKeyPair, Value) {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
        let [x, y] = [x, y].map(|half| URL_SAFE_NO_PAD.encode(half));
        let jwk = json!({ "kty": "EC", "crv": curve, "kid": curve, "x": x, "y": y });
        (key, jwk)
    }

    #[tokio::test]
    async fn keys_of_each_curve_verify_what_they_have_signed() {
        let (ed, ed_jwk) = ed();
        let (p256, p256_jwk) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256");
        let (p384, p384_jwk) = ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384");
        let (issuer, _) = issuer_of(&[ed_jwk, p256_jwk, p384_jwk]);
        let random = SystemRandom::new();
        let of_ec = |key: &EcdsaKeyPair, alg: &str, kid| {
            let message = message(alg, kid);
            with_proof(&message, key.sign(&random, message.as_bytes()).unwrap().as_ref())
        };
        let unproven = message("EdDSA", Some("ed"));
        let good = [
            with_proof(&unproven, ed.sign(unproven.as_bytes()).as_ref()),
            of_ec(&p256, "ES256", Some("P-256")),
            of_ec(&p384, "ES384", Some("P-384")),
            // Whose key it is need not be said.
            of_ec(&p384, "ES384", None),
        ];
        for token in &good {
            let found = issuer.identify(token).await.unwrap();
            assert_eq!(found.user.as_deref(), Some("oidc:carol"));
            assert_eq!(found.groups, ["oidc:a", "oidc:system:masters"]);
        }
        for bad in [
            of_ec(&p256, "ES384", Some("P-384")),
            of_ec(&p256, "EdDSA", Some("ed")),
            of_ec(&p384, "ES256", None),
        ] {
            assert!(issuer.identify(&bad).await.is_err(), "{bad}");
        }
        let (body, proof) = good[1].rsplit_once('.').unwrap();
        assert!(issuer.identify(&format!("{body}.{}", proof.replace(&proof[..1], "_"))).await.is_err());
        assert!(issuer.identify(&format!("{body}.")).await.is_err());
    }

    #[tokio::test]
    async fn what_is_public_is_no_secret_of_an_hmac_and_a_secret_is_no_key() {
        let (key, jwk) = ed();
        let secret = json!({ "kty": "oct", "kid": "secret", "k": URL_SAFE_NO_PAD.encode([7; 32]) });
        let (issuer, _) = issuer_of(&[jwk, secret]);
        for (kid, secret) in [("ed", key.public_key().as_ref()), ("secret", &[7; 32][..])] {
            let message = message("HS256", Some(kid));
            let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
            let token = with_proof(&message, ring::hmac::sign(&secret, message.as_bytes()).as_ref());
            assert!(issuer.identify(&token).await.is_err(), "{kid}");
        }
    }

    #[tokio::test]
    async fn strangers_do_not_make_us_ask_for_keys_again_and_again() {
        let (key, jwk) = ed();
        let (issuer, fetch) = issuer_of(&[jwk]);
        let message = message("EdDSA", Some("unknown"));
        let token = with_proof(&message, key.sign(message.as_bytes()).as_ref());
        for _ in 0..50 {
            assert!(issuer.identify(&token).await.is_err());
        }
        // The configuration and the keys, once.
        assert_eq!(fetch.1.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}
