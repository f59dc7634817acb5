//! [`Checksum`]: what a publisher says that the bytes of a source hash to.

use std::fmt;
use std::str::FromStr;

use sha2::digest::DynDigest;

use crate::oci::hex;

/// An algorithm that publishers of disk images use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChecksumAlgorithm {
    /// MD5 (RFC 1321). Against accidents alone.
    Md5,
    /// SHA-1. Against accidents alone.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// GOST R 34.11-2012 of 256 bits (RFC 6986).
    Streebog256,
    /// GOST R 34.11-2012 of 512 bits (RFC 6986).
    Streebog512,
}

impl ChecksumAlgorithm {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512, Self::Streebog256, Self::Streebog512];

    /// The name before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Streebog256 => "streebog256",
            Self::Streebog512 => "streebog512",
        }
    }

    /// Characters of a sum in hexadecimal.
    fn hex_length(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 => 40,
            Self::Sha256 | Self::Streebog256 => 64,
            Self::Sha512 | Self::Streebog512 => 128,
        }
    }

    fn hasher(self) -> Box<dyn DynDigest + Send> {
        match self {
            Self::Md5 => Box::new(md5::Md5::default()),
            Self::Sha1 => Box::new(sha1::Sha1::default()),
            Self::Sha256 => Box::new(sha2::Sha256::default()),
            Self::Sha512 => Box::new(sha2::Sha512::default()),
            Self::Streebog256 => Box::new(streebog::Streebog256::default()),
            Self::Streebog512 => Box::new(streebog::Streebog512::default()),
        }
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `algorithm:hex`, over the bytes of a source as they come, compressed if they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    hex: String,
}

/// The text is no checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid checksum {text:?}: {reason}")]
pub struct InvalidChecksum {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for Checksum {
    type Err = InvalidChecksum;

    fn from_str(text: &str) -> Result<Self, InvalidChecksum> {
        let invalid = |reason: &str| InvalidChecksum {
            text: text.chars().take(200).collect(),
            reason: reason.to_owned(),
        };
        let (name, hex) = text.split_once(':').ok_or_else(|| invalid("it must read ALGORITHM:HEX"))?;
        let algorithm = ChecksumAlgorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let names = ChecksumAlgorithm::ALL.map(ChecksumAlgorithm::as_str).join(", ");
                invalid(&format!("the algorithms are {names}"))
            })?;
        if hex.len() != algorithm.hex_length() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            let length = algorithm.hex_length();
            return Err(invalid(&format!("{algorithm} has {length} hexadecimal digits")));
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

/// Computes all checksums that are wanted in one pass.
pub(super) struct Checksummer {
    wanted: Vec<(Checksum, Box<dyn DynDigest + Send>)>,
}

/// A source has another sum than its publisher says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) expected: Checksum,
    pub(super) actual: Checksum,
}

impl Checksummer {
    pub(super) fn new(wanted: &[Checksum]) -> Self {
        Self { wanted: wanted.iter().map(|sum| (sum.clone(), sum.algorithm.hasher())).collect() }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.wanted {
            hasher.update(bytes);
        }
    }

    pub(super) fn check(self) -> Result<(), Mismatch> {
        for (expected, hasher) in self.wanted {
            let hex = hex(&hasher.finalize());
            let actual = Checksum { algorithm: expected.algorithm, hex };
            if actual != expected {
                return Err(Mismatch { expected, actual });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Message 1 of RFC 6986, section 10.1.
    const MESSAGE: &[u8] = b"012345678901234567890123456789012345678901234567890123456789012";

    #[test]
    fn streebog_is_that_of_rfc_6986() {
        for sum in [
            "streebog256:9d151eefd8590b89daa6ba6cb74af9275dd051026bb149a452fd84e5e57b5500",
            "streebog512:1b54d01a4af5b9d5cc3d86d68d285462b19abc2475222f35c085122be4ba1ffa\
             00ad30f8767b3a82384c6574f024c311e2a481332b08ef7f41797891c1646f48",
        ] {
            let mut checksummer = Checksummer::new(&[sum.parse().unwrap()]);
            checksummer.update(MESSAGE);
            checksummer.check().unwrap();
        }
    }

    #[test]
    fn each_algorithm_knows_the_empty_message() {
        for sum in [
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha1:DA39A3EE5E6B4B0D3255BFEF95601890AFD80709",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ] {
            Checksummer::new(&[sum.parse().unwrap()]).check().unwrap();
        }
    }

    #[test]
    fn all_that_are_given_must_fit() {
        let right = "md5:d41d8cd98f00b204e9800998ecf8427e".parse().unwrap();
        let wrong: Checksum = "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80700".parse().unwrap();
        let mismatch = Checksummer::new(&[right, wrong.clone()]).check().unwrap_err();
        assert_eq!(mismatch.expected, wrong);
        assert_eq!(mismatch.actual.to_string(), "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }

    #[test]
    fn what_is_no_checksum_is_refused() {
        for text in [
            "",
            "md5",
            "md5:",
            "md5:xyz",
            "crc32:00000000",
            "sha256:aa",
            "md5:d41d8cd98f00b204e9800998ecf8427g",
        ] {
            assert!(text.parse::<Checksum>().is_err(), "{text:?}");
        }
    }
}
