//! [`Format`]: the layouts of a disk in a file that are told apart, each with the one name it goes by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a disk is laid out in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The bytes of the disk, one after the other.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// `VMware`'s format, in one file.
    Vmdk,
    /// `VirtualBox`'s format.
    Vdi,
    /// Virtual PC's format, fixed or dynamic.
    Vhd,
    /// Hyper-V's format.
    Vhdx,
    /// An optical disc: ISO 9660 or UDF.
    Iso,
}

/// The text names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no disk format: use raw, qcow2, vmdk, vdi, vhd, vhdx or iso")]
pub struct UnknownFormat {
    /// What was given.
    pub text: String,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhd, Self::Vhdx, Self::Iso];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Iso => "iso",
        }
    }

    /// What its files end in, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        self.as_str()
    }

    /// What QEMU calls it, as in `qemu-img convert -f`.
    #[must_use]
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Vhd => "vpc",
            Self::Iso => "raw",
            other => other.as_str(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| UnknownFormat { text: text.chars().take(200).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_reads_back_from_its_name() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("QCOW2".parse::<Format>(), Err(UnknownFormat { text: "QCOW2".to_owned() }));
    }

    #[test]
    fn qemu_has_its_own_name_for_a_vhd_and_none_for_an_iso() {
        assert_eq!(Format::Vhd.qemu_name(), "vpc");
        assert_eq!(Format::Iso.qemu_name(), "raw");
        assert_eq!(Format::Qcow2.qemu_name(), "qcow2");
    }
}
