//! [`Reference`]: how a manifest is asked for.

use std::fmt;
use std::str::FromStr;

use super::{Digest, InvalidDigest, InvalidTag, Tag};

/// A tag or a digest. What holds a colon is meant as a digest, since no tag does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A movable name.
    Tag(Tag),
    /// The manifest itself.
    Digest(Digest),
}

/// The text is neither tag nor digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It looks like a digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// It looks like a tag.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}
