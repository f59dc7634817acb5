"""A machine boots from a disk that went through DVCR."""

import os
import pathlib
import secrets
import struct
import subprocess
import threading

import pytest

from images import MIB, compress, convert, run

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


def bootable(folder, kernel, text, init=INIT):
    """A raw disk with a boot sector, a loader, Debian's kernel, and a program that prints a text."""
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    run("cp", "/bin/busybox", root / "bin/busybox")
    (root / "init").write_text(init.format(text=text))
    (root / "init").chmod(0o755)
    names = b"bin\nbin/busybox\ninit\n"
    initrd = folder / "initrd"
    initrd.write_bytes(run("cpio", "--quiet", "-o", "-H", "newc", cwd=root, input=names))

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
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    patience = threading.Timer(300, machine.kill)
    patience.start()
    printed = b""
    try:
        while text not in printed and (piece := machine.stdout.read1()):
            printed += piece
    finally:
        patience.cancel()
        machine.kill()
        machine.wait()
    return printed


@pytest.mark.slow
def test_a_machine_boots_from_a_disk_that_was_imported_and_pulled(dvcr, registry, web, cache, tmp_path):
    text = f"booted from a disk of DVCR: {secrets.token_hex(16)}"
    raw = bootable(tmp_path, cache / "kernel/vmlinuz", text)
    convert(raw, tmp_path / "boot.qcow2", "qcow2")
    packed = compress(tmp_path / "boot.qcow2", "xz")
    raw.unlink()

    reference, pulled = f"{registry.host}/disks/boot:v1", tmp_path / "pulled.qcow2"
    result = dvcr.imports(web.add("/boot.qcow2.xz", packed.read_bytes(), cut=5 * MIB), reference)
    assert (result["format"], result["compression"], result["virtual_size"]) == ("qcow2", "xz", 48 * MIB)
    dvcr.pulls(reference, pulled)
    printed = console(pulled, text.encode())
    assert text.encode() in printed, printed.decode(errors="replace")[-3000:]
