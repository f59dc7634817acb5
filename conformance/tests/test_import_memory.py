"""How much memory a client takes for a disk that is much larger than that."""

import subprocess
import sys

import pytest

from disk import MIB, write_disk
from dvcr import BINARY

SIZE = 1024 * MIB


# A process counts as its peak what the one that made it had, so a small one is put between.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_of(command, **more):
    """The most memory that a command has had, in MiB."""
    measured = [sys.executable, "-c", MEASURE, BINARY, *command, "--progress", "none"]
    return int(subprocess.run(measured, check=True, stdout=subprocess.PIPE, **more).stdout) / 1024


@pytest.mark.slow
def test_an_import_and_a_pull_take_little_memory_whatever_the_size(start, tmp_path):
    server = start("filesystem")
    disk = tmp_path / "disk.raw"
    write_disk(disk, SIZE // MIB)
    reference = f"{server.host}/disks/large:v1"
    assert peak_of(["import", disk, reference]) < 128
    assert peak_of(["pull", reference, "-o", tmp_path / "back.raw"]) < 128
    with disk.open("rb") as source, subprocess.Popen(["cat"], stdin=source, stdout=subprocess.PIPE) as pipe:
        assert peak_of(["import", "-", f"{server.host}/disks/piped:v1"], stdin=pipe.stdout) < 192


@pytest.mark.slow
def test_a_stream_that_expands_takes_little_memory(start, tmp_path):
    server = start("filesystem")
    packed = tmp_path / "disk.raw.xz"
    # Blocks of 16 MiB, as `xz -T0` of the larger presets makes them, so that several threads work.
    with packed.open("wb") as target:
        disk = subprocess.Popen(["head", "-c", str(SIZE), "/dev/zero"], stdout=subprocess.PIPE)
        subprocess.run(["xz", "-T0", "-1", "--block-size=16MiB"], stdin=disk.stdout, stdout=target, check=True)
        disk.wait()
    assert peak_of(["import", packed, f"{server.host}/disks/packed:v1"]) < 512
