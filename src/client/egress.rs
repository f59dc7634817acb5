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
#[error("{host} is refused: {}", explain(*address))]
pub struct RefusedAddress {
    /// What was asked for.
    pub host: String,
    /// Where that is; `None` for a name that leads nowhere we can see.
    pub address: Option<IpAddr>,
}

fn explain(address: Option<IpAddr>) -> String {
    match address {
        Some(address) => {
            format!("{address} is a loopback or link-local address, which sources may not have here")
        }
        None => "the name does not resolve, so that where it leads cannot be judged".to_owned(),
    }
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
        let refused = |host: &str, address| RefusedAddress { host: host.to_owned(), address: Some(address) };
        match url.host() {
            Some(Host::Ipv4(address)) if !self.allows(address.into()) => {
                Err(refused(&address.to_string(), address.into()))
            }
            Some(Host::Ipv6(address)) if !self.allows(address.into()) => {
                Err(refused(&address.to_string(), address.into()))
            }
            Some(Host::Domain(name)) => match resolve(name).await {
                Ok(addresses) => self.filter(name, addresses).map(drop),
                // A proxy may know the name where we do not, and then nobody would have judged the address.
                Err(_) => Err(RefusedAddress { host: name.to_owned(), address: None }),
            },
            _ => Ok(()),
        }
    }

    /// All `addresses`, or none when one is forbidden: which one is taken is not ours to say.
    fn filter(self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, RefusedAddress> {
        match addresses.iter().find(|address| !self.allows(address.ip())) {
            Some(address) => Err(RefusedAddress { host: host.to_owned(), address: Some(address.ip()) }),
            None => Ok(addresses),
        }
    }
}

/// Metadata services that are at no link-local address: Azure's and Alibaba's.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];

/// The metadata service of AWS over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

fn is_local_v4(address: Ipv4Addr) -> bool {
    // "This network", 0.0.0.0/8, reaches this host on Linux.
    address.is_loopback()
        || address.is_link_local()
        || address.octets()[0] == 0
        || METADATA_V4.contains(&address)
}

fn is_local_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        || address == METADATA_V6
        || embedded(address).is_some_and(is_local_v4)
}

/// The IPv4 address that an IPv6 address leads to in the end.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let joined = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let last = joined(segments[6], segments[7]);
    match segments {
        // Compatible and mapped (RFC 4291), translated (RFC 2765), and NAT64: the well-known prefix (RFC 6052) and those
        // for local use (RFC 8215).
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0 | 1, ..] => {
            Some(last)
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(joined(high, low)),
        _ => None,
    }
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
            "::ffff:0:127.0.0.1",
            "2002:7f00:1::",
            "64:ff9b:1::7f00:1",
            "fd00:ec2::254",
            "168.63.129.16",
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
    async fn a_name_that_only_a_proxy_knows_is_refused() {
        let url = "http://metadata.invalid/".parse().unwrap();
        assert!(Egress::NotLocal.check(&url).await.is_err());
        assert!(Egress::Any.check(&url).await.is_ok());
    }

    #[tokio::test]
    async fn a_name_is_judged_by_where_it_leads() {
        for url in ["http://localhost/x", "http://127.1/x", "http://0x7f000001/", "http://[::1]:80/"] {
            assert!(Egress::NotLocal.check(&url.parse().unwrap()).await.is_err(), "{url}");
        }
    }
}
