"""A machine boots from a disk that went through DVCR."""

import os
import pathlib
import secrets
import signal
import struct
import subprocess
import threading

import pytest

from command import INTERRUPTED
from dvcr import BINARY
from images import MIB, compress, convert, run
from virtual_images import APIS, Embedded

START = MIB
"""Where the partition begins."""

CONFIG = """DEFAULT linux
SERIAL 0 115200
LABEL linux
  LINUX /vmlinuz
  INITRD /initrd
  APPEND console=ttyS0 quiet panic=-1
"""

INIT = """#!/bin/busybox sh
/bin/busybox echo "{text}"
/bin/busybox poweroff -f
"""


def bootable(folder, kernel, init, modules=()):
    """A raw disk with a boot sector, a loader, Debian's kernel, and a program that is all that runs. Modules are for that to load."""
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    run("cp", "/bin/busybox", *modules, root / "bin")
    (root / "init").write_text(init)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    initrd = folder / "initrd"
    initrd.write_bytes(run("cpio", "--quiet", "-o", "-H", "newc", cwd=root, input=names.encode()))

    disk, size = folder / "boot.raw", 48 * MIB
    loader = bytearray(pathlib.Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes().ljust(512, b"\0"))
    # One active partition, FAT32, by block addresses.
    first, count, beyond = START // 512, (size - START) // 512, b"\xfe\xff\xff"
    loader[446:462] = struct.pack("<B3sB3sII", 0x80, beyond, 0x0C, beyond, first, count)
    loader[510:512] = b"\x55\xaa"
    disk.write_bytes(loader)
    os.truncate(disk, size)
    part = f"{disk}@@{START}"
    run("mformat", "-i", part, "-F", "-H", first, "-T", count, "::")
    (folder / "syslinux.cfg").write_text(CONFIG)
    for source, name in [(kernel, "vmlinuz"), (initrd, "initrd"), (folder / "syslinux.cfg", "syslinux.cfg")]:
        run("mcopy", "-i", part, source, f"::{name}")
    run("syslinux", "--offset", START, "--install", disk)
    return disk


def console(disk, text, attached=("if=ide",)):
    """What a machine without any acceleration prints when it boots from a qcow2, up to a text.

    `attached` is how the machine has it, for the end of the argument of -drive, and further arguments.
    """
    how, *more = attached
    machine = subprocess.Popen(
        [
            "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nographic", "-no-reboot", "-nic", "none",
            "-drive", f"file={disk},format=qcow2,{how}", *more,
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        return read_until(machine, text)
    finally:
        machine.kill()
        machine.wait()


def read_until(machine, text):
    """What a machine, which leads a session, prints up to a text. One that does not come is not waited for for ever."""
    patience = threading.Timer(300, os.killpg, [machine.pid, signal.SIGKILL])
    patience.start()
    printed = b""
    try:
        while text not in printed and (piece := machine.stdout.read1()):
            printed += piece
    finally:
        patience.cancel()
    return printed


@pytest.mark.slow
def test_a_machine_boots_from_a_disk_that_was_imported_and_pulled(dvcr, registry, web, cache, tmp_path):
    text = f"booted from a disk of DVCR: {secrets.token_hex(16)}"
    raw = bootable(tmp_path, cache / "kernel/vmlinuz", INIT.format(text=text))
    convert(raw, tmp_path / "boot.qcow2", "qcow2")
    packed = compress(tmp_path / "boot.qcow2", "xz")
    raw.unlink()

    reference, pulled = f"{registry.host}/disks/boot:v1", tmp_path / "pulled.qcow2"
    result = dvcr.imports(web.add("/boot.qcow2.xz", packed.read_bytes(), cut=5 * MIB), reference)
    assert (result["format"], result["compression"], result["virtual_size"]) == ("qcow2", "xz", 48 * MIB)
    dvcr.pulls(reference, pulled)
    printed = console(pulled, text.encode())
    assert text.encode() in printed, printed.decode(errors="replace")[-3000:]


LOGIN = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /seed
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
for module in {modules}; do /bin/busybox insmod /bin/$module.ko; done
until seed=$(/bin/busybox findfs LABEL=CIDATA); do /bin/busybox usleep 100000; done
/bin/busybox mount -t vfat -o ro $seed /seed
name=$(/bin/busybox sed 's/.*"local-hostname":"\\([^"]*\\)".*/\\1/' /seed/meta-data)
/bin/busybox hostname $name
/bin/busybox sed 's/^/told: /' /seed/user-data
/bin/busybox getty -L 115200 ttyS0 vt100
"""
"""As little as there can be of cloud-init, and a login prompt."""


@pytest.mark.slow
def test_a_machine_goes_from_an_address_to_its_login_prompt(start, cache, web, tmp_path):
    modules = (cache / "kernel/modules.list").read_text().split()
    files = [cache / f"kernel/{module}.ko" for module in modules]
    raw = bootable(tmp_path, cache / "kernel/vmlinuz", LOGIN.format(modules=" ".join(modules)), files)
    convert(raw, tmp_path / "boot.qcow2", "qcow2")
    packed = compress(tmp_path / "boot.qcow2", "xz")
    url = web.add("/boot.qcow2.xz", packed.read_bytes())

    world = Embedded(start("filesystem"), cache, tmp_path / "kubectl")
    disk = {"source": {"http": {"url": url}}, "storage": "64Mi"}
    token = secrets.token_hex(16)
    spec = {"disks": ["system"], "instanceType": "s1.small", "sshKeys": ["ssh-ed25519 AAAA a"], "cloudInit": f"#cloud-config\n# {token}\n"}
    for kind, name, spec in [("VMDisk", "system", disk), ("VMInstance", "machine", spec)]:
        world.apply({"apiVersion": APIS["vmdisk"], "kind": kind, "metadata": {"name": name}, "spec": spec})
    world.wait_phase("vminstance", "machine", "Stopped")
    machine = subprocess.Popen(
        [
            BINARY, "vm", "run", "machine", "--server", f"http://{world.server.host}", "--data", world.data,
            "--memory", "256Mi", "--accel", "tcg",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    printed = read_until(machine, b"machine login: ")
    assert f"told: # {token}".encode() in printed, printed.decode(errors="replace")[-3000:]
    # Asked to stop, it has qemu end first.
    machine.terminate()
    assert b"terminating on signal 15" in machine.stdout.read()
    assert machine.wait(30) == INTERRUPTED
