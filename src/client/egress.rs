//! [`Egress`]: which addresses may be spoken to on behalf of somebody else.
//!
//! A service that fetches URLs for its tenants must not fetch from itself, from its neighbours on the
//! node or from the cloud's metadata service. Names prove nothing, so the rule judges resolved addresses,
//! and as it sits in the resolver that the connection uses, a second answer of the DNS cannot get past it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Which addresses may be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// All: what is done on the user's own behalf.
    #[default]
    Any,
    /// Neither loopback nor link-local nor unspecified addresses: what is done on behalf of tenants.
    NotLocal,
}

/// An address that the [`Egress`] rule forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is refused: {address} is a loopback or link-local address, which sources may not have here")]
pub struct RefusedAddress {
    /// What was asked for.
    pub host: String,
    /// Where that is.
    pub address: IpAddr,
}

impl Egress {
    /// The rule for a server: local addresses if its operator allows them, or by default if nobody but
    /// this machine reaches it.
    #[must_use]
    pub fn of_server(listen: IpAddr, allow_local: Option<bool>) -> Self {
        if allow_local.unwrap_or(listen.is_loopback()) { Self::Any } else { Self::NotLocal }
    }

    /// Whether `address` may be spoken to.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::NotLocal => match address {
                IpAddr::V4(address) => !is_local_v4(address),
                IpAddr::V6(address) => !is_local_v6(address),
            },
        }
    }

    /// Refuses a URL whose host is forbidden. `proxied` requests are resolved here too, because a proxy
    /// would hide where they go.
    pub(super) async fn check(self, url: &Url) -> Result<(), RefusedAddress> {
        if self == Self::Any {
            return Ok(());
        }
        let refused = |host: &str, address| RefusedAddress { host: host.to_owned(), address };
        match url.host() {
            Some(Host::Ipv4(address)) if !self.allows(address.into()) => {
                Err(refused(&address.to_string(), address.into()))
            }
            Some(Host::Ipv6(address)) if !self.allows(address.into()) => {
                Err(refused(&address.to_string(), address.into()))
            }
            Some(Host::Domain(name)) => match resolve(name).await {
                Ok(addresses) => self.filter(name, addresses).map(drop),
                // Only a proxy knows the name, or nobody: then the connection says so.
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// All `addresses`, or none when one is forbidden: which one is taken is not ours to say.
    fn filter(self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, RefusedAddress> {
        match addresses.iter().find(|address| !self.allows(address.ip())) {
            Some(address) => Err(RefusedAddress { host: host.to_owned(), address: address.ip() }),
            None => Ok(addresses),
        }
    }
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    // "This network", 0.0.0.0/8, reaches this host on Linux.
    address.is_loopback() || address.is_link_local() || address.octets()[0] == 0
}

fn is_local_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let last_four = Ipv4Addr::from((u32::from(segments[6]) << 16) | u32::from(segments[7]));
    // IPv4 in other clothes: mapped, compatible, and the well-known NAT64 prefix (RFC 6052).
    let is_mapped = segments[..5] == [0; 5] && matches!(segments[5], 0 | 0xffff);
    let is_nat64 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        || ((is_mapped || is_nat64) && is_local_v4(last_four))
}

async fn resolve(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    // The connector puts in the port of the URL.
    Ok(tokio::net::lookup_host((name, 0)).await?.collect())
}

/// The system's resolver, under the rule.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Egress);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.0;
        Box::pin(async move {
            let addresses = resolve(name.as_str()).await?;
            let allowed = egress.filter(name.as_str(), addresses)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_refused_in_every_spelling() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(!Egress::NotLocal.allows(text.parse().unwrap()), "{text}");
            assert!(Egress::Any.allows(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_allowed() {
        for text in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "2001:db8::1", "fd00::1", "64:ff9b::808:808"] {
            assert!(Egress::NotLocal.allows(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_server_that_only_this_machine_reaches_allows_local_addresses() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let all: IpAddr = "0.0.0.0".parse().unwrap();
        assert_eq!(Egress::of_server(loopback, None), Egress::Any);
        assert_eq!(Egress::of_server(all, None), Egress::NotLocal);
        assert_eq!(Egress::of_server(all, Some(true)), Egress::Any);
        assert_eq!(Egress::of_server(loopback, Some(false)), Egress::NotLocal);
    }

    #[tokio::test]
    async fn a_name_is_judged_by_where_it_leads() {
        for url in ["http://localhost/x", "http://127.1/x", "http://0x7f000001/", "http://[::1]:80/"] {
            assert!(Egress::NotLocal.check(&url.parse().unwrap()).await.is_err(), "{url}");
        }
    }
}
