//! [`Egress`]: which addresses may be spoken to on behalf of somebody else.
//!
//! A service that fetches URLs for its tenants must not fetch from itself, from its neighbours on the
//! node or from the cloud's metadata service. Names prove nothing, so the rule judges resolved addresses,
//! and as it sits in the resolver that the connection uses, a second answer of the DNS cannot get past it. A
//! proxy resolves names again: it has to refuse by itself what nobody should reach through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Which addresses may be spoken to. By default all: what is done on the user's own behalf.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    deny_local: bool,
    denied: Arc<[IpNet]>,
}

/// What the [`Egress`] rule refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is refused: {reason}")]
pub struct RefusedAddress {
    /// What was asked for.
    pub host: String,
    /// Why it is refused.
    pub reason: Refusal,
}

/// Why an address may not be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is one of this machine, of its neighbours, or of a cloud's metadata service.
    #[error("{0} is a loopback or link-local address, which sources may not have here")]
    Local(IpAddr),
    /// It is in a network that is denied.
    #[error("{0} is in {1}, where sources may not be here")]
    Denied(IpAddr, IpNet),
    /// The name leads nowhere that we can see.
    #[error("the name does not resolve, so that where it leads cannot be judged")]
    Unresolved,
}

impl Egress {
    /// A rule for what is done on behalf of tenants: with `deny_local` no loopback, link-local or unspecified addresses and no metadata
    /// services, and nothing in the `denied` networks.
    #[must_use]
    pub fn new(deny_local: bool, denied: &[IpNet]) -> Self {
        Self { deny_local, denied: denied.into() }
    }

    /// The rule for a server: local addresses if its operator allows them, or by default if nobody but
    /// this machine reaches it.
    #[must_use]
    pub fn of_server(listen: IpAddr, allow_local: Option<bool>, denied: &[IpNet]) -> Self {
        Self::new(!allow_local.unwrap_or(listen.is_loopback()), denied)
    }

    /// Refuses an `address` that may not be spoken to.
    pub fn judge(&self, address: IpAddr) -> Result<(), Refusal> {
        let spellings = spellings(address);
        if self.deny_local && spellings.iter().copied().any(is_local) {
            return Err(Refusal::Local(address));
        }
        let is_there = |network: &&IpNet| spellings.iter().any(|address| network.contains(address));
        match self.denied.iter().find(is_there) {
            Some(network) => Err(Refusal::Denied(address, *network)),
            None => Ok(()),
        }
    }

    /// Refuses a URL whose host is forbidden. `proxied` requests are resolved here too, because a proxy
    /// would hide where they go.
    pub(super) async fn check(&self, url: &Url) -> Result<(), RefusedAddress> {
        if *self == Self::default() {
            return Ok(());
        }
        let literal = |address: IpAddr| {
            self.judge(address).map_err(|reason| RefusedAddress { host: address.to_string(), reason })
        };
        match url.host() {
            Some(Host::Ipv4(address)) => literal(address.into()),
            Some(Host::Ipv6(address)) => literal(address.into()),
            Some(Host::Domain(name)) => match resolve(name).await {
                Ok(addresses) => self.filter(name, addresses).map(drop),
                // A proxy may know the name where we do not, and then nobody would have judged the address.
                Err(_) => Err(RefusedAddress { host: name.to_owned(), reason: Refusal::Unresolved }),
            },
            None => Ok(()),
        }
    }

    /// All `addresses`, or none when one is forbidden: which one is taken is not ours to say.
    fn filter(&self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, RefusedAddress> {
        for address in &addresses {
            self.judge(address.ip()).map_err(|reason| RefusedAddress { host: host.to_owned(), reason })?;
        }
        Ok(addresses)
    }
}

/// Metadata services that are at no link-local address: Azure's and Alibaba's.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];

/// The metadata service of AWS over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// All addresses that lead where this one does.
fn spellings(address: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![address];
    if let IpAddr::V6(address) = address {
        all.extend(embedded(address).map(IpAddr::from));
    }
    // Whoever connects to no address in particular reaches this machine.
    if all.iter().any(IpAddr::is_unspecified) {
        all.extend::<[IpAddr; 2]>([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let mapped = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(IpAddr::from(address.to_ipv6_mapped())),
        IpAddr::V6(_) => None,
    };
    all.extend(all.iter().filter_map(mapped).collect::<Vec<_>>());
    all
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_local_v4(address),
        IpAddr::V6(address) => is_local_v6(address),
    }
}

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
pub(super) struct Resolver {
    pub(super) egress: Egress,
    /// Names of proxies, which nobody but the operator chooses. A URL with such a name is [checked](Egress::check) nevertheless.
    pub(super) proxies: Vec<String>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_proxy = self.proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(name.as_str()));
        let egress = if is_proxy { Egress::default() } else { self.egress.clone() };
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

    fn not_local() -> Egress {
        Egress::new(true, &[])
    }

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
            let address = text.parse().unwrap();
            assert_eq!(not_local().judge(address), Err(Refusal::Local(address)));
            assert_eq!(Egress::default().judge(address), Ok(()));
        }
    }

    #[test]
    fn other_addresses_are_allowed() {
        for text in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "2001:db8::1", "fd00::1", "64:ff9b::808:808"] {
            assert_eq!(not_local().judge(text.parse().unwrap()), Ok(()), "{text}");
        }
    }

    #[test]
    fn networks_that_are_denied_are_refused_in_every_spelling() {
        let egress = Egress::new(false, &["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for text in
            ["10.0.0.1", "10.255.255.255", "::ffff:10.1.2.3", "2002:a01:203::", "64:ff9b::a01:203", "fd00::1"]
        {
            let refused = egress.judge(text.parse().unwrap());
            assert!(matches!(refused, Err(Refusal::Denied(..))), "{text}: {refused:?}");
        }
        for text in ["11.0.0.1", "127.0.0.1", "::ffff:11.1.2.3", "fe00::1"] {
            assert_eq!(egress.judge(text.parse().unwrap()), Ok(()), "{text}");
        }
    }

    #[test]
    fn no_address_in_particular_is_this_machine() {
        let egress = Egress::new(false, &["127.0.0.0/8".parse().unwrap()]);
        for text in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            assert!(egress.judge(text.parse().unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_may_be_written_as_mapped_addresses() {
        let egress = Egress::new(false, &["::ffff:10.0.0.0/104".parse().unwrap()]);
        assert!(egress.judge("10.1.2.3".parse().unwrap()).is_err());
        assert_eq!(egress.judge("11.1.2.3".parse().unwrap()), Ok(()));
    }

    #[test]
    fn a_server_that_only_this_machine_reaches_allows_local_addresses() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let all: IpAddr = "0.0.0.0".parse().unwrap();
        assert_eq!(Egress::of_server(loopback, None, &[]), Egress::default());
        assert_eq!(Egress::of_server(all, None, &[]), not_local());
        assert_eq!(Egress::of_server(all, Some(true), &[]), Egress::default());
        assert_eq!(Egress::of_server(loopback, Some(false), &[]), not_local());
    }

    #[test]
    fn a_name_that_leads_to_one_forbidden_address_among_others_is_refused() {
        let [public, local] = ["8.8.8.8:0", "127.0.0.1:0"].map(|text| text.parse().unwrap());
        assert_eq!(not_local().filter("x", vec![public]), Ok(vec![public]));
        for addresses in [[public, local], [local, public]] {
            let refused = not_local().filter("x", addresses.to_vec()).unwrap_err();
            assert_eq!(refused.reason, Refusal::Local("127.0.0.1".parse().unwrap()));
        }
    }

    #[tokio::test]
    async fn a_name_that_only_a_proxy_knows_is_refused() {
        let url = "http://metadata.invalid/".parse().unwrap();
        assert!(not_local().check(&url).await.is_err());
        assert!(Egress::default().check(&url).await.is_ok());
    }

    #[tokio::test]
    async fn a_name_is_judged_by_where_it_leads() {
        for url in ["http://localhost/x", "http://127.1/x", "http://0x7f000001/", "http://[::1]:80/"] {
            assert!(not_local().check(&url.parse().unwrap()).await.is_err(), "{url}");
        }
    }
}
