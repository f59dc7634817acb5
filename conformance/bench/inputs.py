"""What is pushed: noise, and a disk as people have them. Made once for a run, and the same in every turn."""

import contextlib
import hashlib
import os
import pathlib
import random
import shutil
import stat
import subprocess
import tarfile

from dataclasses import dataclass, replace

BLOCK, PIECE, MIB = 4096, 32 << 10, 1 << 20


@dataclass(frozen=True)
class Blob:
    path: pathlib.Path
    size: int
    digest: str
    zeros: float
    """The part of its blocks that is zeros."""

    def pieces(self, length):
        """Where in its file it is, piece by piece: offsets and lengths. One that is longer than its file is that file over and
        over, each time in another order, so that no chunk of it comes again."""
        once = self.path.stat().st_size
        for number in range(self.size // once):
            starts = list(range(0, once, length))
            if number:
                random.Random(number).shuffle(starts)
            yield from ((start, min(length, once - start)) for start in starts)


def finished(path):
    """The blob that a file is. Synced, or it would be written out while something else is measured; and in the page cache."""
    sha256, zeros, size, empty = hashlib.sha256(), 0, 0, bytes(BLOCK)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while piece := file.read(1 << 20):
            sha256.update(piece)
            size += len(piece)
            zeros += sum(piece[at : at + BLOCK] == empty for at in range(0, len(piece), BLOCK))
    return Blob(path, size, f"sha256:{sha256.hexdigest()}", zeros / max(1, -(-size // BLOCK)))


def noise(path, size, seed=0):
    """Bytes that neither compress nor repeat."""
    dice = random.Random(seed)
    with path.open("wb") as file:
        while (left := size - file.tell()) > 0:
            file.write(dice.randbytes(min(left, 1 << 20)))
    return finished(path)


def system_files(limit):
    """Files of this machine's system that take at most so many bytes of a disk, in an order that is the same each time."""
    walks = [os.walk(f"/usr/{folder}") for folder in ("bin", "lib", "share")]
    found = sorted(os.path.join(folder, name) for walk in walks for folder, _, names in walk for name in names)
    random.Random(1).shuffle(found)
    taken, folders, large = 0, set(), 0
    for path in map(pathlib.Path, found):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            continue
        new = set(path.parents) - folders
        length = (len(new) + 1 + status.st_size // BLOCK) * BLOCK
        if taken + length <= limit:
            taken, folders, large = taken + length, folders | new, 0
            yield path
        elif (large := large + 1) == 100:
            # It is as good as full.
            break


def disk(folder, size):
    """A layer with a disk, as `docker build` makes it: an ext4 file system, six tenths of it programs of this system and
    what belongs to them, as far as there are so many, and the rest as a new file system has it."""
    tree, image, layer = folder / "tree", folder / "disk.img", folder / "disk.tar"
    for path in system_files(size * 6 // 10):
        copy = tree / path.relative_to("/usr")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):
            try:
                os.link(path, copy)
            except OSError:
                shutil.copyfile(path, copy)
    tree.mkdir(exist_ok=True)
    subprocess.run(["truncate", "-s", str(size), image], check=True)
    # The same identity each time, so that the digest is the same while the system is.
    identity = ["-U", "6b6f6e74-726f-6c6c-6965-727465720000", "-E", "hash_seed=6b6f6e74-726f-6c6c-6965-727465720000"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-i", "8192", *identity, "-d", tree, image], check=True)
    shutil.rmtree(tree)
    with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("disk/disk.img")
        entry.size, entry.uid, entry.gid, entry.mode = size, 107, 107, 0o444
        with image.open("rb") as file:
            tar.addfile(entry, file)
    image.unlink()
    return finished(layer)


class Inputs:
    """What a run needs, made when it is first asked for. `stack` ends with the run."""

    def __init__(self, folder, size, stack):
        self.folder, self.size, self.stack, self.made = folder, size, stack, {}

    def once(self, key, make):
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def get(self, kind, size=None, seed=0):
        """`random` or `disk`, of `size` bytes."""
        size = size or self.size

        def make():
            folder = self.folder / f"{kind}-{size}-{seed}"
            folder.mkdir(parents=True)
            return noise(folder / "blob", size, seed) if kind == "random" else disk(folder, size)

        return self.once((kind, size, seed), make)

    def repeated(self, kind, times):
        """A blob of so many times the size, in a file of the size."""
        once = self.get(kind)

        def make():
            blob, sha256 = replace(once, size=once.size * times), hashlib.sha256()
            with blob.path.open("rb") as file:
                for start, length in blob.pieces(PIECE):
                    sha256.update(os.pread(file.fileno(), length, start))
            return replace(blob, digest=f"sha256:{sha256.hexdigest()}")

        return self.once((kind, "repeated", times), make)
