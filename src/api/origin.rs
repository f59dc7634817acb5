//! [`Origin`]: where a request comes from, also when it has come through a proxy.
//!
//! A proxy that ends TLS or balances load is the peer of every connection, and then says itself on whose behalf it asks, in
//! `X-Forwarded-For`: each hop adds the address of its own peer behind those that it was given. So the list is read from the right,
//! through the proxies that the operator trusts, and the first address of somebody else is the client: what stands left of it is what
//! that client says of itself. From a peer that is not trusted nothing is believed. `Forwarded` (RFC 7239) is not read: proxies that do
//! not write it pass on what a client has put there, and of two headers only one can be right.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) address: IpAddr,
    /// Of its connection to us; of a client behind a proxy it is not known.
    port: Option<u16>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl Origin {
    /// Where a request with these headers comes from that `peer` has sent.
    pub(super) fn of(peer: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
        let (peer, port) = (peer.ip().to_canonical(), peer.port());
        let mut found = Self { address: peer, port: Some(port) };
        if !is_trusted(peer) {
            return found;
        }
        let hops = headers.get_all(X_FORWARDED_FOR).iter().rev();
        for hop in hops.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
            // A proxy that passes on what is no address stands for whoever has sent that.
            let Some(address) = address(hop) else { break };
            found = Self { address, port: None };
            if !is_trusted(address) {
                break;
            }
        }
        found
    }
}

/// An address as proxies write it: bare, in brackets, or with the port.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse::<IpAddr>().ok().or_else(with_port).or_else(bracketed)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"].map(|text| text.parse().unwrap()).to_vec()
    }

    fn origin(peer: &str, forwarded: &[&[u8]]) -> String {
        let value = |text: &&[u8]| (X_FORWARDED_FOR, HeaderValue::from_bytes(text).unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in forwarded.iter().map(value) {
            headers.append(name, value);
        }
        Origin::of(peer.parse().unwrap(), &headers, &trusted()).to_string()
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_proxy_of_ours() {
        for (forwarded, client) in [
            (&[][..], "10.0.0.1:5000"),
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&["192.0.2.7:1234"], "192.0.2.7"),
            (&[" 192.0.2.7 , 10.1.1.1"], "192.0.2.7"),
            (&["192.0.2.7,10.1.1.1,10.2.2.2"], "192.0.2.7"),
            // What a client puts there itself stands left of where it was seen.
            (&["1.1.1.1, 10.9.9.9, 192.0.2.7, 10.1.1.1"], "192.0.2.7"),
            (&["1.1.1.1", "192.0.2.7", "10.1.1.1"], "192.0.2.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:443, fd00::1"], "2001:db8::7"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            // A machine of ours is a client as well.
            (&["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ] {
            let forwarded: Vec<&[u8]> = forwarded.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(origin("10.0.0.1:5000", &forwarded), client);
        }
        assert_eq!(origin("[::ffff:10.0.0.1]:5000", &[b"192.0.2.7"]), "192.0.2.7");
    }

    #[test]
    fn who_is_no_proxy_of_ours_is_not_believed() {
        for peer in ["192.0.2.9:1", "11.0.0.1:1", "[2001:db8::1]:1", "127.0.0.2:1"] {
            assert_eq!(origin(peer, &[b"10.0.0.1, 127.0.0.1"]), peer);
        }
    }

    #[test]
    fn garbage_is_put_down_to_the_proxy_that_passed_it_on() {
        for garbage in [
            &b""[..],
            b",",
            b"unknown",
            b"_hidden",
            b"192.0.2",
            b"192.0.2.7.8",
            b"[::1",
            b"::1]",
            b"\xff\xfe",
            b"a b",
            b"1.1.1.1;2.2.2.2",
        ] {
            assert_eq!(origin("10.0.0.1:5000", &[garbage]), "10.0.0.1:5000", "{garbage:?}");
            let passed_on = [b"192.0.2.7,", garbage, b",10.1.1.1"].concat();
            assert_eq!(origin("10.0.0.1:5000", &[&passed_on]), "10.1.1.1", "{garbage:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_it_is_who_the_proxy_has_seen(
            sent in proptest::collection::vec("[ -~]{0,40}", 0..4),
            bytes in proptest::collection::vec(128_u8..=255, 0..20),
        ) {
            // A proxy adds what it sees, in the same line or in one of its own.
            let mut lines: Vec<Vec<u8>> = sent.iter().map(|line| line.clone().into_bytes()).collect();
            lines.push(bytes);
            let mut joined = lines.clone();
            joined.last_mut().unwrap().extend_from_slice(b", 192.0.2.7");
            lines.push(b"192.0.2.7".to_vec());
            for lines in [&lines, &joined] {
                let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
                prop_assert_eq!(origin("10.0.0.1:5000", &lines), "192.0.2.7");
            }
        }

        #[test]
        fn nobody_else_chooses_an_address(sent in proptest::collection::vec("[ -~]{0,60}", 0..4)) {
            let lines: Vec<&[u8]> = sent.iter().map(String::as_bytes).collect();
            prop_assert_eq!(origin("192.0.2.9:1", &lines), "192.0.2.9:1");
        }
    }
}
