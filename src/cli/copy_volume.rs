//! `dvcr copy-volume`: what a Job runs to make a volume of another one.

use std::path::PathBuf;

use clap::Args;

use super::size::Size;
use super::{Failure, run_to_end};
use crate::exporter::{Destination, Missing, copy_volume};

/// Copy the disk in one volume, a file or a block device, into another one, without its holes.
#[derive(Debug, Args)]
pub(super) struct CopyVolume {
    /// The disk.
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// Where it goes: a file, which is replaced, or a block device.
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// The size of the disk, such as 20Gi, which is not less than that of the other one.
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// A disk that is not there is an empty one.
    #[arg(long)]
    missing_is_empty: bool,
}

impl CopyVolume {
    pub(super) fn run(self) -> Result<(), Failure> {
        let to = Destination::at(self.to, true);
        let missing = if self.missing_is_empty { Missing::IsEmpty } else { Missing::IsAnError };
        let copy = copy_volume(self.from, to, self.size.map(|size| size.0), missing);
        run_to_end(async { copy.await.map_err(|error| Failure::judged(error.is_refusal(), &error)) })
    }
}
