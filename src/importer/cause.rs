//! [`Cause`]: why an import failed, in a word, for those who count.

/// What kept an import from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The source is not there, breaks off, changes, or may not be read.
    Source,
    /// The source is not what its publisher made.
    Checksum,
    /// The disk is not acceptable.
    Disk,
    /// The disk could not be converted.
    Conversion,
    /// The registry does not take the image.
    Registry,
    /// Somebody else ended the work: memory was short, or the time was over.
    Killed,
    /// Anything else.
    Other,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Source,
        Self::Checksum,
        Self::Disk,
        Self::Conversion,
        Self::Registry,
        Self::Killed,
        Self::Other,
    ];

    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Checksum => "checksum",
            Self::Disk => "disk",
            Self::Conversion => "conversion",
            Self::Registry => "registry",
            Self::Killed => "killed",
            Self::Other => "other",
        }
    }

    /// What a word means; [`Cause::Other`] for one that is not known.
    #[must_use]
    pub fn of(word: &str) -> Self {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word).unwrap_or(Self::Other)
    }
}
