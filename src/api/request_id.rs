//! [`RequestId`]: what a request is called in the log, and in the log of whoever asked.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header in which a client, or a proxy before us, may name its request, and in which we say the name.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer than any that is in use, and no burden for the log.
const LONGEST: usize = 128;

/// The name of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The client's own name for it, if that may stand in a log, or else a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).filter(|id| is_sane(id.as_bytes())).cloned();
        Self(given.unwrap_or_else(|| {
            // The hexadecimal digits and hyphens of a UUID are a header's.
            HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unnamed"))
        }))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

fn is_sane(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=+/@".contains(byte);
    (1..=LONGEST).contains(&id.len()) && id.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(given: &[u8]) -> RequestId {
        RequestId::of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(given).unwrap())]))
    }

    #[test]
    fn a_sane_name_is_kept() {
        for given in ["a", "6f1c2d", "Root=1-67891233-abcdef012345678912345678", &"x".repeat(128)] {
            assert_eq!(id_of(given.as_bytes()).as_str(), given);
        }
    }

    #[test]
    fn any_other_is_replaced_by_one_of_ours() {
        for given in ["", "a b", "a\"b", "a\tb", "é", "a{b}", &"x".repeat(129)] {
            assert!(id_of(given.as_bytes()).as_str().parse::<Uuid>().is_ok(), "{given}");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
    }
}
