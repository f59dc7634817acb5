"""Disk images for tests, and Docker images that hold them."""

import hashlib
import os

MIB = 1 << 20


def write_disk(path, mib, seed=b"dvcr"):
    """A file that does not compress, the same for the same seed, and its sha256."""
    # Encrypting zeros is the fastest source of noise here.
    block = hashlib.shake_256(seed).digest(MIB)
    sha256 = hashlib.sha256()
    with open(path, "wb") as file:
        for i in range(mib):
            piece = i.to_bytes(8, "big") + block[8:]
            file.write(piece)
            sha256.update(piece)
    return sha256.hexdigest()


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_disk_image(docker, folder, reference, mib, seed=b"dvcr"):
    """What an operator does: FROM scratch, COPY the disk, docker build. Gives the disk's sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    disk = folder / "disk.img"
    sha256 = write_disk(disk, mib, seed)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY --chown=107:107 disk.img /disk/disk.img\n")
    docker.run("build", "--quiet", "--tag", reference, folder)
    os.unlink(disk)
    return sha256
