//! From a machine to the arguments of qemu. A pure function.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::seed::LABEL;

/// A machine, as qemu is to run it.
#[derive(Debug)]
pub(super) struct Machine {
    /// What it is called.
    pub(super) name: String,
    /// Processors.
    pub(super) cpus: u64,
    /// Bytes of memory.
    pub(super) memory: u64,
    /// UUID of its firmware.
    pub(super) uuid: String,
    /// Disks, in the order in which it boots from them.
    pub(super) disks: Vec<Disk>,
    /// A folder that it sees as a small disk, for cloud-init.
    pub(super) seed: Option<PathBuf>,
    /// TCP ports of this machine's loopback, and those of the machine to which they lead.
    pub(super) forwards: Vec<(u16, u16)>,
    /// Another firmware than the BIOS of qemu.
    pub(super) firmware: Option<PathBuf>,
    /// How its processors run.
    pub(super) accelerator: Accelerator,
    /// What is written to disks is thrown away in the end.
    pub(super) snapshot: bool,
    /// A window, or what else qemu has for a display; none: the console alone.
    pub(super) display: Option<String>,
}

/// How the processors of a machine run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Accelerator {
    /// By KVM, or else by TCG.
    Auto,
    /// On the processors of this machine.
    Kvm,
    /// Imitated.
    Tcg,
}

/// A disk of a machine.
#[derive(Debug)]
pub(super) struct Disk {
    /// The raw file.
    pub(super) path: PathBuf,
    /// `virtio`, `sata`, `scsi` or `usb`; none: what fits.
    pub(super) bus: Option<String>,
    /// It is a CD-ROM.
    pub(super) optical: bool,
}

/// A MiB, in which qemu takes memory.
const MIB: u64 = 1 << 20;

impl Machine {
    /// The arguments.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut all = Arguments::default();
        all.add("-machine", "q35").add("-cpu", "max");
        // Qemu takes the first that there is.
        for (name, without) in [("kvm", Accelerator::Tcg), ("tcg", Accelerator::Kvm)] {
            if self.accelerator != without {
                all.add("-accel", name);
            }
        }
        all.add("-name", format!("guest={}", escaped(self.name.as_ref()).to_string_lossy()));
        all.add("-uuid", &self.uuid);
        all.add("-smp", self.cpus.to_string()).add("-m", format!("{}M", self.memory.div_ceil(MIB)));
        if let Some(firmware) = &self.firmware {
            all.add("-bios", firmware);
        }
        if self.snapshot {
            all.0.push("-snapshot".into());
        }
        if self.disks.iter().any(|disk| disk.bus() == "scsi") {
            all.add("-device", "virtio-scsi-pci,id=scsi");
        }
        if self.disks.iter().any(|disk| disk.bus() == "usb") {
            all.add("-device", "qemu-xhci,id=usb");
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let mut drive = OsString::from(format!("if=none,id=disk{index},format=raw,discard=unmap"));
            drive.push(if disk.optical { ",media=cdrom,readonly=on,file=" } else { ",file=" });
            drive.push(escaped(&disk.path));
            all.add("-drive", drive);
            all.add("-device", format!("{},drive=disk{index},bootindex={}", disk.device(), index + 1));
        }
        if let Some(seed) = &self.seed {
            let mut drive =
                OsString::from(format!("driver=vvfat,node-name=seed,read-only=on,label={LABEL},dir="));
            drive.push(escaped(seed));
            all.add("-blockdev", drive).add("-device", "virtio-blk-pci,drive=seed");
        }
        let forwards =
            self.forwards.iter().map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"));
        all.add("-nic", format!("user,model=virtio-net-pci{}", forwards.collect::<String>()));
        all.add("-device", "virtio-rng-pci");
        all.add("-display", self.display.as_deref().unwrap_or("none")).add("-serial", "mon:stdio");
        all.0
    }
}

impl Disk {
    /// How the machine has it.
    fn bus(&self) -> &str {
        // There is no CD-ROM that is one of virtio.
        let usual = if self.optical { "sata" } else { "virtio" };
        self.bus.as_deref().filter(|bus| !(self.optical && *bus == "virtio")).unwrap_or(usual)
    }

    fn device(&self) -> &'static str {
        match (self.bus(), self.optical) {
            ("sata", false) => "ide-hd",
            ("sata", true) => "ide-cd",
            ("scsi", false) => "scsi-hd,bus=scsi.0",
            ("scsi", true) => "scsi-cd,bus=scsi.0",
            ("usb", _) => "usb-storage,bus=usb.0",
            _ => "virtio-blk-pci",
        }
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.extend([option.into(), value.into()]);
        self
    }
}

/// A path within an option of qemu, where a comma ends a value.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = path.as_os_str().as_bytes();
    OsString::from_vec(
        bytes.iter().flat_map(|byte| if *byte == b',' { vec![b',', b','] } else { vec![*byte] }).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            name: "vm-instance-web".to_owned(),
            cpus: 2,
            memory: (4 << 30) + 1,
            uuid: "u".to_owned(),
            disks: vec![
                Disk { path: "/a,b/disk.img".into(), bus: None, optical: false },
                Disk { path: "/cd.iso".into(), bus: Some("virtio".to_owned()), optical: true },
                Disk { path: "/s".into(), bus: Some("scsi".to_owned()), optical: false },
            ],
            seed: Some("/seed".into()),
            forwards: vec![(2222, 22), (8080, 80)],
            firmware: None,
            accelerator: Accelerator::Auto,
            snapshot: false,
            display: None,
        }
    }

    fn text(machine: &Machine) -> String {
        let all: Vec<_> =
            machine.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        all.join(" ")
    }

    #[test]
    fn a_machine_has_its_disks_in_their_order_on_their_buses() {
        let text = text(&machine());
        for part in [
            "file=/a,,b/disk.img -device virtio-blk-pci,drive=disk0,bootindex=1",
            "readonly=on,file=/cd.iso -device ide-cd,drive=disk1,bootindex=2",
            "-device virtio-scsi-pci,id=scsi",
            "-device scsi-hd,bus=scsi.0,drive=disk2,bootindex=3",
            "label=CIDATA,dir=/seed -device virtio-blk-pci,drive=seed",
            "-smp 2 -m 4097M",
            "hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:8080-:80",
            "-accel kvm -accel tcg",
            "-display none -serial mon:stdio",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("qemu-xhci") && !text.contains("-snapshot") && !text.contains("-bios"));
    }

    #[test]
    fn what_is_not_asked_for_is_not_there() {
        let machine = Machine {
            seed: None,
            disks: vec![],
            forwards: vec![],
            snapshot: true,
            accelerator: Accelerator::Tcg,
            ..machine()
        };
        let text = text(&machine);
        assert!(
            !text.contains("vvfat")
                && !text.contains("hostfwd")
                && !text.contains("kvm")
                && text.contains(" -snapshot ")
        );
    }
}
