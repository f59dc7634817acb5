"""Small disk images by the tools that people make them with, and what they are compressed with on their way."""

import bz2
import dataclasses
import json
import os
import pathlib
import subprocess

MIB = 1 << 20
UUID = "11111111-2222-3333-4444-555555555555"


def run(*arguments, **options):
    """Runs a program, and gives what it printed."""
    done = subprocess.run(list(map(str, arguments)), capture_output=True, timeout=300, check=False, **options)
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Kind:
    """A format as DVCR names it, the driver that qemu has for it, and how an image is made of a raw disk."""

    format: str
    driver: str
    options: str = ""
    compress: bool = False


KINDS = {
    "raw": Kind("raw", "raw"),
    "qcow2": Kind("qcow2", "qcow2", "compat=1.1"),
    "qcow2-0.10": Kind("qcow2", "qcow2", "compat=0.10"),
    "qcow2-compressed": Kind("qcow2", "qcow2", "compat=1.1", compress=True),
    "qcow2-zstd": Kind("qcow2", "qcow2", "compat=1.1,compression_type=zstd", compress=True),
    "vmdk": Kind("vmdk", "vmdk", "subformat=monolithicSparse"),
    "vmdk-stream": Kind("vmdk", "vmdk", "subformat=streamOptimized"),
    "vdi": Kind("vdi", "vdi"),
    "vdi-static": Kind("vdi", "vdi", "static=on"),
    "vhd": Kind("vhd", "vpc", "subformat=dynamic,force_size=on"),
    "vhd-fixed": Kind("vhd", "vpc", "subformat=fixed,force_size=on"),
    "vhdx": Kind("vhdx", "vhdx", "subformat=dynamic"),
    "iso": Kind("iso", "raw"),
    "udf": Kind("iso", "raw"),
}
"""udf is what DVDs have: `iso` to a machine that boots from it, as iso9660 is."""

SUFFIXES = {
    "none": "",
    "gzip": ".gz",
    "gzip-members": ".gz",
    "xz": ".xz",
    "xz-blocks": ".xz",
    "zstd": ".zst",
    "zstd-unsized": ".zst",
    "bzip2": ".bz2",
}
"""Compressions, and the suffixes that files with them have."""

COMPRESSIONS = list(SUFFIXES)


def reported(compression):
    """How DVCR names a compression."""
    return compression.split("-")[0]


class Images:
    """Makes each image once."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.made = {}

    def once(self, key, make):
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def disk(self, mib=8):
        """A raw disk with an ext4 file system: some noise, some text, and holes."""
        return self.once(("disk", mib), lambda: self.make_disk(mib))

    def image(self, name, mib=8):
        """An image of one of the kinds."""
        return self.once((name, mib), lambda: self.make_image(name, mib))

    def compressed(self, name, compression, mib=8):
        """An image of one of the kinds, compressed."""
        return self.once((name, compression, mib), lambda: compress(self.image(name, mib), compression))

    def make_disk(self, mib):
        files = self.files()
        path = self.folder / f"disk-{mib}.raw"
        path.touch()
        os.truncate(path, mib * MIB)
        run("mke2fs", "-q", "-t", "ext4", "-U", UUID, "-E", f"hash_seed={UUID}", "-d", files, path)
        return path

    def files(self):
        files = self.folder / "files"
        if not files.exists():
            files.mkdir()
            (files / "hello.txt").write_text("Hello from a disk image.\n" * 1000)
            (files / "noise").write_bytes(os.urandom(MIB // 2))
        return files

    def make_image(self, name, mib):
        kind, path = KINDS[name], self.folder / f"{name}-{mib}.img"
        if name == "raw":
            return self.disk(mib)
        if name == "iso":
            run("genisoimage", "-quiet", "-V", "DVCR", "-R", "-o", path, self.files())
        elif name == "udf":
            path.touch()
            os.truncate(path, mib * MIB)
            run("mkudffs", "--media-type=hd", "--label=DVCR", path)
        else:
            convert(self.disk(mib), path, kind.driver, kind.options, kind.compress)
        return path


def convert(disk, path, driver, options="", compressed=False):
    more = [*(["-o", options] if options else []), *(["-c"] if compressed else [])]
    run("qemu-img", "convert", "-f", "raw", "-O", driver, *more, disk, path)


def virtual_size(name, path):
    """The size of the disk as qemu sees it."""
    return json.loads(run("qemu-img", "info", "--output=json", "-f", KINDS[name].driver, path))["virtual-size"]


def later_version(content, dice):
    """A file as a later version has it: with bytes put in, with one other byte, or as if compiled anew."""
    content, kind = bytearray(content), dice.randrange(3)
    if kind == 0:
        at = dice.randrange(len(content))
        content[at:at] = dice.randbytes(dice.randrange(1, 200))
    else:
        step = len(content) if kind == 1 else 1500
        for at in range(0, len(content), step):
            content[(at + dice.randrange(step)) % len(content)] ^= 1 + dice.randrange(255)
    return content


def same_disk(one, driver, other, other_driver):
    """Has qemu compare two images by what a guest sees, the size among it."""
    said = run("qemu-img", "compare", "-f", driver, "-F", other_driver, one, other)
    assert said == b"Images are identical.\n", said


def compress(path, compression):
    """A compressed file beside a file."""
    if compression == "none":
        return path
    target = pathlib.Path(f"{path}.{compression}{SUFFIXES[compression]}")
    with target.open("wb") as out:
        if compression == "gzip-members":
            third = path.stat().st_size // 3
            data = path.read_bytes()
            for piece in [data[:third], data[third : third + 1], data[third + 1 :]]:
                subprocess.run(["gzip", "-1"], input=piece, stdout=out, check=True)
            return target
        command = {
            "gzip": ["gzip", "-1", "-c", path],
            "xz": ["xz", "-0", "-c", path],
            "xz-blocks": ["xz", "-0", "-T2", "--block-size=1MiB", "-c", path],
            "zstd": ["zstd", "-q", "-c", path],
            "zstd-unsized": ["zstd", "-q", "-c"],
            "bzip2": ["bzip2", "-1", "-c", path],
        }[compression]
        with path.open("rb") as source:
            subprocess.run(command, stdin=source, stdout=out, check=True)
    return target


def filled_up(path, compression, block=512):
    """A file made so long that it fills blocks, as a block device must be, with what its compression allows there.

    gzip and bzip2 take an empty member, xz takes zeros between streams, zstd a frame to skip.
    """
    data = path.read_bytes()
    missing = -len(data) % block
    if missing == 0:
        return path
    if compression.startswith("gzip"):
        # An empty member with a name as long as needed: header, name, NUL, two bytes of deflate, checksum, size.
        missing += block if missing < 21 else 0
        data += b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (missing - 21) + b"\0" + b"\x03\0" + bytes(8)
    elif compression.startswith("xz") or compression == "none":
        data += bytes(missing)
    elif compression.startswith("zstd"):
        missing += block if missing < 8 else 0
        data += b"\x50\x2a\x4d\x18" + (missing - 8).to_bytes(4, "little") + bytes(missing - 8)
    else:
        empty = b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0"
        # An empty stream has an even length. Two streams in place of one can have any.
        plain, first = bz2.decompress(data), 0
        while len(data) % 2:
            first += 1
            data = bz2.compress(plain[:first], 1) + bz2.compress(plain[first:], 1)
        while len(data) % block:
            data += empty
    assert len(data) % block == 0
    target = pathlib.Path(f"{path}.full")
    target.write_bytes(data)
    return target


def holes(path):
    """Where the holes of a file begin and end."""
    found, size = [], path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position < size:
            start = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            try:
                position = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:
                position = size
            if start < position:
                found.append((start, position))
    return found


def with_all_holes(path, target):
    """A copy in which every block of zeros is a hole."""
    run("cp", "--sparse=always", path, target)
    return target


class LoopDevice:
    """A block device over a file."""

    def __init__(self, path, read_only=False):
        self.name = run("losetup", "--find", "--show", *(["--read-only"] if read_only else []), path).decode().strip()

    def __enter__(self):
        return self.name

    def __exit__(self, *_):
        run("losetup", "--detach", self.name)


class FileSystem:
    """A file system of its own, over a sparse file in a folder; `command` makes it."""

    def __init__(self, folder, *command, size=512 * MIB):
        self.file, self.place, self.command = folder / "file-system", folder / "mounted", command
        self.place.mkdir()
        self.file.touch()
        os.truncate(self.file, size)

    def __enter__(self):
        run(*self.command, self.file)
        run("mount", "-o", "loop", self.file, self.place)
        return self.place

    def __exit__(self, *_):
        run("umount", "--lazy", self.place)
