//! [`Refusal`]: why an image is not taken, and what whoever brought it can do about it.

use super::{Compression, Format};

/// An image that is not taken.
///
/// Names in it come from the image: they are bounded, and quoted where they are shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No bytes, or a disk of no bytes.
    #[error("the image is empty: a disk needs at least one byte")]
    Empty,

    /// It is something else.
    #[error("this is {what} and no disk image: {advice}")]
    NotADisk {
        /// What it is, with its article.
        what: &'static str,
        /// The way out.
        advice: &'static str,
    },

    /// It holds only what differs from another image.
    #[error("the {format} image needs its backing file {name:?}: flatten it with `qemu-img convert`")]
    BackingFile {
        /// What the image is.
        format: Format,
        /// The other image.
        name: String,
    },

    /// It holds only the tables; the data lies elsewhere.
    #[error(
        "the {format} image keeps its data in another file, {name:?}: flatten it with `qemu-img convert`"
    )]
    ExternalData {
        /// What the image is.
        format: Format,
        /// The other file.
        name: String,
    },

    /// The disk is spread over several files.
    #[error(
        "the {format} disk is spread over several files, {name:?} among them: convert it into one with `qemu-img \
         convert` where all of them are at hand"
    )]
    OtherFiles {
        /// What the image is.
        format: Format,
        /// One of the other files.
        name: String,
    },

    /// It is a snapshot, and holds only what differs from its parent.
    #[error(
        "the {format} image differs from a parent, {parent:?}, and is no whole disk: merge or convert it first"
    )]
    Differencing {
        /// What the image is.
        format: Format,
        /// The parent, by the name or the mark that the image gives it.
        parent: String,
    },

    /// Its content is encrypted by the format, and no importer has the key.
    #[error("the {format} image is encrypted: decrypt it with `qemu-img convert` first")]
    Encrypted {
        /// What the image is.
        format: Format,
    },

    /// It was not closed properly.
    #[error(
        "the {format} image was not closed properly, {reason}: repair it with `qemu-img check -r all` first"
    )]
    NeedsRepair {
        /// What the image is.
        format: Format,
        /// What is left to be done.
        reason: &'static str,
    },

    /// Its end is missing.
    #[error(
        "the {format} image is cut short: it needs at least {needs} bytes and has {has}; transfer it again"
    )]
    Truncated {
        /// What the image is.
        format: Format,
        /// Bytes that it needs, at least.
        needs: u64,
        /// Bytes that it has, at most.
        has: u64,
    },

    /// It contradicts itself.
    #[error("the {format} image is damaged: {reason}; transfer it again, or try `qemu-img check`")]
    Malformed {
        /// What the image is.
        format: Format,
        /// What is wrong with it.
        reason: String,
    },

    /// It uses something that importers cannot read.
    #[error("the {format} image uses {feature}, which is not supported: convert it with `qemu-img convert`")]
    Unsupported {
        /// What the image is.
        format: Format,
        /// What it uses.
        feature: String,
    },

    /// The disk is larger than the limit.
    #[error("the disk has at least {size} bytes and may have at most {limit}: shrink it, or raise the limit")]
    VirtualSizeTooLarge {
        /// Bytes that a guest would see, at least.
        size: u64,
        /// Bytes that it may see.
        limit: u64,
    },

    /// More comes out of the compressed stream than the limit.
    #[error("the image expands to more than the {limit} bytes allowed: shrink it, or raise the limit")]
    ExpandedTooLarge {
        /// Bytes that may come out.
        limit: u64,
    },

    /// Suspiciously much comes out of the compressed stream for what went in.
    #[error(
        "the image expands to {ratio} times its size, and {limit} times is allowed: make it a qcow2, which leaves out \
         zeros, or raise the limit"
    )]
    RatioTooHigh {
        /// Bytes out for each byte in.
        ratio: u64,
        /// What is allowed.
        limit: u64,
    },

    /// The compressed stream is broken or ends early.
    #[error("the {compression} stream is broken: {reason}; transfer it again")]
    Corrupt {
        /// The outer compression.
        compression: Compression,
        /// What is wrong with it.
        reason: String,
    },

    /// The compressed stream can only be read with a lot of memory.
    #[error(
        "the {compression} stream takes more than {limit} bytes of memory to expand: compress it with a smaller window"
    )]
    WindowTooLarge {
        /// The outer compression.
        compression: Compression,
        /// Bytes of memory that it may take.
        limit: u64,
    },

    /// More bytes came than had been announced.
    #[error("{announced} bytes were announced and more came: announce the true length, or none")]
    Longer {
        /// Bytes that had been announced.
        announced: u64,
    },

    /// The reader passed over bytes that have to be seen.
    #[error("the bytes from {at} on decide what the image is and were passed over: read what `wants` tells")]
    Unseen {
        /// Where they begin, in bytes.
        at: u64,
    },
}

impl Refusal {
    /// [`Refusal::Malformed`], briefly.
    pub(super) fn malformed(format: Format, reason: impl Into<String>) -> Self {
        Self::Malformed { format, reason: reason.into() }
    }

    /// [`Refusal::Unsupported`], briefly.
    pub(super) fn unsupported(format: Format, feature: impl Into<String>) -> Self {
        Self::Unsupported { format, feature: feature.into() }
    }
}
