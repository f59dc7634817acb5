//! [`convert`]: from one disk format to another, by qemu-img.
//!
//! qemu knows every format and every corner of it; we do not compete. It is handed only disks that were probed,
//! with the format told rather than guessed, so that no header makes it read another file.

use std::path::Path;

use tokio::process::Command;

use crate::disk::Format;

/// A disk was not converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QemuImgError {
    /// qemu-img is not there.
    #[error(
        "converting from {from} to {to} takes qemu-img, which is not installed (Debian: qemu-utils); without --format \
         the disk comes as it is"
    )]
    Missing {
        /// The disk's format.
        from: Format,
        /// The format that is asked for.
        to: Format,
    },
    /// qemu-img failed.
    #[error("qemu-img cannot convert the disk: {0}")]
    Failed(String),
}

/// Fails early if qemu-img is not there.
pub async fn is_possible(from: Format, to: Format) -> Result<(), QemuImgError> {
    let asked = Command::new("qemu-img").arg("--version").output().await;
    if asked.is_ok_and(|output| output.status.success()) {
        Ok(())
    } else {
        Err(QemuImgError::Missing { from, to })
    }
}

/// Converts a file into a file or, with `into_device`, onto a block device.
pub async fn convert(
    from: Format,
    source: &Path,
    to: Format,
    target: &Path,
    into_device: bool,
) -> Result<(), QemuImgError> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", from.qemu_name(), "-O", to.qemu_name()]);
    if into_device {
        // It is there and is not to be made.
        command.arg("-n");
    }
    command.arg("--").arg(source).arg(target).kill_on_drop(true);
    let output = command.output().await.map_err(|error| QemuImgError::Failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(QemuImgError::Failed(if said.is_empty() { output.status.to_string() } else { said }))
}
