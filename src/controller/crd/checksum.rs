//! The checksums of a source, as people write them.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Checksums of the file as it is received, before it is decompressed. The file must match all that are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChecksumSpec {
    /// MD5, 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 32), regex(pattern = "^[0-9a-fA-F]{32}$"))]
    pub md5: Option<String>,
    /// SHA-1, 40 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 40), regex(pattern = "^[0-9a-fA-F]{40}$"))]
    pub sha1: Option<String>,
    /// SHA-256, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 64), regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub sha256: Option<String>,
    /// SHA-512, 128 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 128), regex(pattern = "^[0-9a-fA-F]{128}$"))]
    pub sha512: Option<String>,
    /// GOST R 34.11-2012 (Streebog), 256 bits, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 64), regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub streebog256: Option<String>,
    /// GOST R 34.11-2012 (Streebog), 512 bits, 128 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 128), regex(pattern = "^[0-9a-fA-F]{128}$"))]
    pub streebog512: Option<String>,
}

impl ChecksumSpec {
    /// Those that are given, as `ALGORITHM:HEX`.
    pub fn given(&self) -> impl Iterator<Item = String> + '_ {
        [
            ("md5", &self.md5),
            ("sha1", &self.sha1),
            ("sha256", &self.sha256),
            ("sha512", &self.sha512),
            ("streebog256", &self.streebog256),
            ("streebog512", &self.streebog512),
        ]
        .into_iter()
        .filter_map(|(algorithm, sum)| sum.as_ref().map(|sum| format!("{algorithm}:{sum}")))
    }
}
