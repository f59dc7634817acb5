//! Keys that a registry signs with: 32 random bytes, written in Base64, as `openssl rand -base64 32` makes them.
//!
//! What each is for, and what it is called where somebody mistypes it, is the business of the types around it.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

/// The bytes of a key.
pub type Bytes = [u8; 32];

/// A new key.
#[must_use]
pub fn random() -> Bytes {
    let mut key = [0; 32];
    for (half, random) in key.chunks_exact_mut(16).zip([Uuid::new_v4(), Uuid::new_v4()]) {
        half.copy_from_slice(random.as_bytes());
    }
    key
}

/// The key in a text, if it is one.
#[must_use]
pub fn parse(text: &str) -> Option<Bytes> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// The key as text.
#[must_use]
pub fn to_text(key: &Bytes) -> String {
    STANDARD.encode(key)
}

/// The key in a file, which is made, for its owner alone, when it is not there.
pub fn of_file<K: FromStr<Err: Display>>(path: &Path, key: impl FnOnce(Bytes) -> K) -> io::Result<K> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(|error| io::Error::other(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let bytes = random();
            // Under another name first: half a key would keep the server from starting.
            let part = path.with_extension("part");
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            writeln!(file, "{}", to_text(&bytes))?;
            file.sync_all()?;
            std::fs::rename(&part, path)?;
            Ok(key(bytes))
        }
        Err(error) => Err(error),
    }
}
