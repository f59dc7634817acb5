//! [`convert`]: from one format to another, by qemu-img.
//!
//! qemu knows every format and every corner of it; we do not compete. It is handed only disks that were probed,
//! with the format told rather than guessed, so that no header makes it read another file.

use std::path::Path;

use tokio::process::Command;

use super::ExportError;
use crate::disk::Format;

/// Fails early if qemu-img is not there.
pub(super) async fn is_possible(from: Format, to: Format) -> Result<(), ExportError> {
    let asked = Command::new("qemu-img").arg("--version").output().await;
    if asked.is_ok_and(|output| output.status.success()) {
        Ok(())
    } else {
        Err(ExportError::NoQemu { from, to })
    }
}

/// Converts a file into a file or, with `into_device`, onto a block device.
pub(super) async fn convert(
    from: Format,
    source: &Path,
    to: Format,
    target: &Path,
    into_device: bool,
) -> Result<(), ExportError> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", from.qemu_name(), "-O", to.qemu_name()]);
    if into_device {
        // It is there and is not to be made.
        command.arg("-n");
    }
    command.arg("--").arg(source).arg(target).kill_on_drop(true);
    let output = command.output().await.map_err(|error| ExportError::Convert(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(ExportError::Convert(if said.is_empty() { output.status.to_string() } else { said }))
}
