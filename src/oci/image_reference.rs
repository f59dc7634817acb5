//! [`ImageReference`]: an image on some registry, as people write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{InvalidName, InvalidReference, Reference, RepositoryName, Tag};

/// A registry: `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost(Box<str>);

/// The text is no `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid registry {text:?}: it must read HOST or HOST:PORT")]
pub struct InvalidHost {
    /// What was given.
    pub text: String,
}

impl RegistryHost {
    /// Docker Hub, which is meant where no registry is named.
    const DOCKER_HUB: &str = "docker.io";

    /// The registry as it is written, which is also how docker's configuration names it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port, and an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        if let Some(rest) = self.0.strip_prefix('[') {
            return rest.split(']').next().unwrap_or(rest);
        }
        self.0.rsplit_once(':').map_or(&self.0, |(host, _)| host)
    }

    /// Where it is reached: Docker Hub's API has a name of its own.
    #[must_use]
    pub fn authority(&self) -> &str {
        if &*self.0 == Self::DOCKER_HUB { "registry-1.docker.io" } else { &self.0 }
    }

    /// Whether it is this machine, by its name alone.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host() == "localhost" || self.host().parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl FromStr for RegistryHost {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost { text: text.chars().take(300).collect() };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or_else(invalid)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
                (address, port.strip_prefix(':').or(port.is_empty().then_some("443")))
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, Some("443")),
            },
        };
        let is_name =
            host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b)) && !host.is_empty();
        let is_port = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if is_name && is_port && text.len() <= 255 { Ok(Self(text.into())) } else { Err(invalid()) }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `REGISTRY/REPOSITORY[:TAG][@DIGEST]`, as in `127.0.0.1:5000/disks/noble:2026-11`.
///
/// The first component is a registry when it has a dot or a port or is `localhost`; otherwise the image
/// is Docker Hub's. Without a tag it is `latest`, and a digest wins over a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// Where it is.
    pub registry: RegistryHost,
    /// Its repository there.
    pub repository: RepositoryName,
    /// Its tag or digest.
    pub reference: Reference,
}

/// The text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct InvalidImageReference {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// `text` as registry and the rest, where its first component is a registry.
fn split_registry(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_once('/')?;
    (first.contains(['.', ':']) || first == "localhost").then_some((first, rest))
}

impl ImageReference {
    /// The same repository's image of another name.
    #[must_use]
    pub fn with_reference(&self, reference: Reference) -> Self {
        Self { reference, ..self.clone() }
    }

    /// Its tag, unless it is named by digest.
    #[must_use]
    pub fn tag(&self) -> Option<&Tag> {
        match &self.reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        }
    }
}

impl FromStr for ImageReference {
    type Err = InvalidImageReference;

    fn from_str(text: &str) -> Result<Self, InvalidImageReference> {
        let invalid =
            |reason: String| InvalidImageReference { text: text.chars().take(300).collect(), reason };
        let host = text.split(':').next().unwrap_or_default();
        if !text.contains('/') && (host == "localhost" || host.parse::<IpAddr>().is_ok()) {
            return Err(invalid("it names a registry and no repository".to_owned()));
        }
        let (registry, rest) = split_registry(text).unwrap_or((RegistryHost::DOCKER_HUB, text));
        let registry: RegistryHost = registry.parse().map_err(|e: InvalidHost| invalid(e.to_string()))?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (name, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
        let official = registry.as_str() == RegistryHost::DOCKER_HUB && !name.contains('/');
        let repository = if official { format!("library/{name}") } else { name.to_owned() };
        let repository = repository.parse().map_err(|e: InvalidName| invalid(e.to_string()))?;
        let tag: Reference = tag.parse::<Tag>().map(Reference::Tag).map_err(|e| invalid(e.to_string()))?;
        let reference = match digest {
            Some(digest) => Reference::Digest(
                digest
                    .parse()
                    .map_err(|e: super::InvalidDigest| invalid(InvalidReference::from(e).to_string()))?,
            ),
            None => tag,
        };
        Ok(Self { registry, repository, reference })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if matches!(self.reference, Reference::Tag(_)) { ':' } else { '@' };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn a_reference_is_read_as_docker_reads_it() {
        for (text, meant) in [
            ("127.0.0.1:5000/disks/noble:1", "127.0.0.1:5000/disks/noble:1"),
            ("localhost/noble", "localhost/noble:latest"),
            ("[::1]:5000/a/b", "[::1]:5000/a/b:latest"),
            ("ghcr.io/a/b@DIGEST", "ghcr.io/a/b@DIGEST"),
            ("ghcr.io/a/b:tag@DIGEST", "ghcr.io/a/b@DIGEST"),
            ("debian", "docker.io/library/debian:latest"),
            ("kubevirt/fedora:41", "docker.io/kubevirt/fedora:41"),
            ("registry:5000/x", "registry:5000/x:latest"),
        ] {
            let parsed: ImageReference = text.replace("DIGEST", DIGEST).parse().unwrap();
            assert_eq!(parsed.to_string(), meant.replace("DIGEST", DIGEST), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "/",
            "a.b/",
            "a.b/UPPER",
            "a.b/x:",
            "a.b/x:t:u",
            "a.b/x@sha256:1",
            "a b.c/x",
            "h:0/x",
            "h:99999/x",
            "127.0.0.1:5000",
            "localhost",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn loopback_is_told_by_the_name() {
        for (text, loopback) in [
            ("localhost:5000", true),
            ("127.8.9.1", true),
            ("[::1]:80", true),
            ("10.0.0.1:5000", false),
            ("a.b", false),
        ] {
            assert_eq!(text.parse::<RegistryHost>().unwrap().is_loopback(), loopback, "{text}");
        }
    }
}
