"""What the versions of a disk cost: a registry that stores content once, and clients that see nothing of it."""

import functools
import os
import pathlib
import random
import shutil
import subprocess

import pytest

from command import kept
from dvcr import ROOT
from images import convert, later_version, run

pytestmark = pytest.mark.slow

VERSIONS = 10


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The files of a small Debian."""
    tree = tmp_path_factory.mktemp("debian")
    base = run(ROOT / "conformance/base-image", "debian").decode().strip()
    run("tar", "-C", tree, "-xf", base, "--exclude=./dev")
    return tree


def edit(tree, seed):
    """Changes 5% of the files."""
    dice = random.Random(seed)
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in dice.sample(files, len(files) // 20):
        if content := path.read_bytes():
            path.write_bytes(later_version(content, dice))


def build(tree, path):
    """A disk with a new file system and these files, in blocks of 4 KiB as on every larger disk."""
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, 256 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, path)


def edit_in_place(path, seed):
    """Changes a hundred blocks here and there, as a running system does."""
    dice = random.Random(seed)
    with path.open("r+b") as disk:
        for _ in range(10):
            disk.seek(dice.randrange(64 << 20) // 4096 * 4096)
            disk.write(dice.randbytes(10 * 4096))


def compressed(path):
    """Bytes of a disk in one stream of zstd."""
    return int(subprocess.run(f"zstd -1 -q -c {path} | wc -c", shell=True, check=True, capture_output=True).stdout)


def stored(server):
    return sum(kept(server).values())


def same(dvcr, reference, disk, path):
    """That a disk comes back as it is."""
    dvcr.pulls(reference, path)
    run("cmp", disk, path)
    path.unlink()


def import_versions(dvcr, registry, disk, change):
    """Imports a disk as it is and then each time that it was changed; gives its size in one stream of zstd at first."""
    one = compressed(disk)
    for version in range(VERSIONS):
        if version:
            change(version)
        dvcr.imports(disk, f"{registry.host}/debian:v{version}")
    return one


def test_ten_builds_of_a_disk_cost_little_more_than_one(registry, dvcr, tree, tmp_path):
    files, disk = tmp_path / "files", tmp_path / "disk.raw"
    shutil.copytree(tree, files, symlinks=True)

    def rebuild(version):
        edit(files, version)
        build(files, disk)

    build(files, disk)
    one = import_versions(dvcr, registry, disk, rebuild)
    # Of a large disk less: here names and times of files are much of what changes, and one stream compresses better.
    assert stored(registry) <= 1.8 * one, f"{stored(registry) / one:.2f} times one"
    same(dvcr, f"{registry.host}/debian:v{VERSIONS - 1}", disk, tmp_path / "back.raw")


def test_changes_in_place_cost_what_was_changed(registry, dvcr, tree, tmp_path):
    disk = tmp_path / "disk.raw"
    build(tree, disk)
    one = import_versions(dvcr, registry, disk, functools.partial(edit_in_place, disk))
    # Of each changed stretch the whole chunks are new, and noise does not compress.
    assert stored(registry) <= 1.4 * one, f"{stored(registry) / one:.2f} times one"
    same(dvcr, f"{registry.host}/debian:v{VERSIONS - 1}", disk, tmp_path / "back.raw")


def test_a_disk_as_raw_and_as_qcow2_costs_what_one_of_them_does(registry, dvcr, tree, tmp_path):
    raw, qcow2 = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    build(tree, raw)
    convert(raw, qcow2, "qcow2")
    dvcr.imports(raw, f"{registry.host}/debian:raw")
    one = stored(registry)
    dvcr.imports(qcow2, f"{registry.host}/debian:qcow2")
    assert stored(registry) <= 1.05 * one, f"{stored(registry) / one:.2f} times one"
    same(dvcr, f"{registry.host}/debian:qcow2", qcow2, tmp_path / "back.qcow2")


def test_what_an_earlier_process_has_stored_is_known_after_a_restart(registry, dvcr, tree, tmp_path):
    disk = tmp_path / "disk.raw"
    build(tree, disk)
    dvcr.imports(disk, f"{registry.host}/debian:v1")
    one = stored(registry)
    registry.restart()
    edit_in_place(disk, 1)
    dvcr.imports(disk, f"{registry.host}/debian:v2")
    assert stored(registry) <= 1.1 * one, f"{stored(registry) / one:.2f} times one"


def test_what_a_version_costs_is_told(registry, dvcr, tree, tmp_path):
    disk = tmp_path / "disk.raw"
    build(tree, disk)
    dvcr.imports(disk, f"{registry.host}/disks/a:v1")
    edit_in_place(disk, 1)
    dvcr.imports(disk, f"{registry.host}/disks/b:v1")
    counted = dvcr.run("stats", "--output", "json", registry.host).json()
    size = disk.stat().st_size
    assert [repository["name"] for repository in counted["repositories"]] == ["disks/a", "disks/b"]
    assert size * 2 < counted["logical_bytes"] < size * 2 + 10_000
    data = sum(length for file, length in kept(registry).items() if file.startswith(("data/", "recipes/")))
    # Configs are in their records.
    assert data <= counted["stored_bytes"] + counted["unreferenced_bytes"] < data + 10_000
    assert counted["unreferenced_bytes"] == 0
    for repository in counted["repositories"]:
        assert 0 < repository["exclusive_bytes"] < 0.2 * counted["stored_bytes"]
    assert counted["dedup_ratio"] > 3 and counted["compression_ratio"] > 1.5
    text = dvcr.run("stats", registry.host).out.decode()
    assert "disks/a" in text and "logical" in text, text


def test_a_damaged_pack_breaks_a_pull_and_is_named_in_the_log(registry, dvcr, tree, tmp_path):
    disk = tmp_path / "disk.raw"
    build(tree, disk)
    reference = f"{registry.host}/debian:v1"
    dvcr.imports(disk, reference)
    folder = pathlib.Path(registry.storage[1]) / "data"
    pack = max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    failed = dvcr.run("pull", reference, "-o", tmp_path / "back.raw", code=1, timeout=300)
    assert not (tmp_path / "back.raw").exists(), failed
    assert pack.name in registry.log.read_text(errors="replace")
