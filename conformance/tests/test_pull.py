"""dvcr pull: the disk comes out whole or not at all, wherever it goes."""

import json
import os
import subprocess

import pytest

from command import ASKED_WRONGLY, DONE, FAILED, REFUSED, finished
from dvcr import BINARY
from images import KINDS, MIB, FileSystem, LoopDevice, holes, run, same_disk, with_all_holes
from layers import push_disk, tar

MARK, CHANGED = b"MARK-OF-THE-CONFORMANCE-TESTS", b"MARK-OF-THE-conformance-TESTS"


@pytest.fixture(scope="session")
def disk(tmp_path_factory):
    """A raw disk with noise, holes, and a mark in the middle."""
    path = tmp_path_factory.mktemp("pull") / "disk.raw"
    with path.open("wb") as file:
        for position, data in [
            (0, os.urandom(MIB)),
            (9 * MIB, os.urandom(100)),
            (16 * MIB - 5, MARK),
            (20 * MIB, os.urandom(3 * MIB)),
            (31 * MIB + 3, b"end"),
        ]:
            file.seek(position)
            file.write(data)
        file.truncate(32 * MIB + 777)
    return path


@pytest.fixture
def reference(dvcr, registry, disk):
    """An image of the disk."""
    reference = f"{registry.host}/disks/pull:v1"
    dvcr.imports(disk, reference)
    return reference


def at(reference, proxy):
    """The same image through a proxy."""
    return f"{proxy.host}/{reference.split('/', 1)[1]}"


def nothing_left(folder):
    """That a folder has neither the file nor a part of it."""
    return sorted(path.name for path in folder.iterdir()) == []


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def test_the_disk_comes_out_as_it_went_in(dvcr, reference, disk, folder, tmp_path):
    target = folder / "pulled.raw"
    result = dvcr.pulls(reference, target)
    assert target.read_bytes() == disk.read_bytes()
    assert [path.name for path in folder.iterdir()] == ["pulled.raw"]
    assert holes(target) == holes(with_all_holes(disk, tmp_path / "expected"))
    inspected = dvcr.inspects(reference)
    seconds = result.pop("seconds")
    assert result == {
        "reference": reference,
        "digest": inspected["digest"],
        "layer": result["layer"],
        "format": "raw",
        "virtual_size": 32 * MIB + 777,
        "size": 32 * MIB + 777,
        "file": "disk/disk.raw",
        "path": str(target),
    }
    assert inspected["layer"]["digest"] in json.dumps(result["layer"])
    assert seconds >= 0


def test_without_a_name_it_is_the_one_of_the_disk(dvcr, reference, disk, folder):
    dvcr.run("pull", reference, cwd=folder)
    assert [path.name for path in folder.iterdir()] == ["disk.raw"]
    assert (folder / "disk.raw").read_bytes() == disk.read_bytes()


def test_to_is_another_name_for_o(dvcr, reference, disk, folder):
    dvcr.run("pull", "--to", folder / "a", reference)
    assert (folder / "a").read_bytes() == disk.read_bytes()


def test_a_digest_is_pulled_too(dvcr, registry, reference, disk, folder):
    digest = dvcr.inspects(reference)["digest"]
    dvcr.pulls(f"{registry.host}/disks/pull@{digest}", folder / "a")
    dvcr.pulls(f"{registry.host}/disks/pull:v1@{digest}", folder / "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("connections", [1, 2, 16])
def test_any_number_of_connections_brings_the_same(dvcr, reference, disk, folder, connections):
    dvcr.pulls(reference, folder / "a", "--connections", connections)
    assert (folder / "a").read_bytes() == disk.read_bytes()


def test_a_file_that_is_there_is_kept(dvcr, reference, disk, folder):
    target = folder / "a"
    target.write_bytes(b"precious")
    error = dvcr.run("pull", reference, "-o", target, code=None)
    assert error.code in (FAILED, ASKED_WRONGLY)
    assert "--force" in error.error() and str(target) in error.error()
    assert target.read_bytes() == b"precious"
    dvcr.pulls(reference, target, "--force")
    assert target.read_bytes() == disk.read_bytes()
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_pull_that_fails_keeps_the_file_that_it_would_overwrite(dvcr, reference, cutting_proxy, registry, folder):
    target = folder / "a"
    target.write_bytes(b"precious")
    proxy = cutting_proxy(registry.host, change=(MARK, CHANGED))
    dvcr.refuses("pull", "--force", at(reference, proxy), "-o", target)
    assert target.read_bytes() == b"precious"
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_folder_that_is_not_there_is_named(dvcr, reference, folder):
    assert str(folder / "missing") in dvcr.refuses("pull", reference, "-o", folder / "missing/a", code=FAILED)


def test_a_full_disk_is_said(dvcr, reference, tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m", "none", mounted)
    try:
        error = dvcr.refuses("pull", reference, "-o", mounted / "a", code=FAILED)
        assert "space" in error, error
        assert nothing_left(mounted)
    finally:
        run("umount", mounted)


@pytest.mark.slow
def test_a_volume_need_not_have_room_for_a_disk_twice(dvcr, registry, tmp_path):
    disk, image = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    disk.write_bytes(os.urandom(256 * MIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image)
    reference = f"{registry.host}/disks/full:v1"
    dvcr.imports(image, reference)
    # As large as a claim is made for a disk of this size.
    with FileSystem(tmp_path, "mkfs.ext4", "-q", size=336 * MIB) as place:
        dvcr.pulls(reference, place / "disk.img", "--format=raw")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", disk, place / "disk.img")
        assert [file.name for file in place.iterdir() if file.is_file()] == ["disk.img"]


def test_an_image_that_is_not_there_is_named(dvcr, registry, reference, folder):
    for missing in [f"{registry.host}/disks/pull:v2", f"{registry.host}/disks/none:v1"]:
        error = dvcr.refuses("pull", missing, "-o", folder / "a", code=FAILED)
        assert missing.split(":")[1].split("/", 1)[1] in error
        assert nothing_left(folder)


# Wires that go bad.


@pytest.mark.parametrize("connections", [1, 4])
def test_connections_that_are_cut_are_made_again(dvcr, registry, cutting_proxy, reference, disk, folder, connections):
    proxy = cutting_proxy(registry.host, cut=3 * MIB)
    dvcr.pulls(at(reference, proxy), folder / "a", "--connections", connections)
    assert (folder / "a").read_bytes() == disk.read_bytes()
    assert proxy.was_cut >= 5


def test_a_registry_that_always_cuts_at_once_is_given_up(dvcr, registry, cutting_proxy, reference, folder):
    proxy = cutting_proxy(registry.host, cut=0)
    dvcr.refuses("pull", at(reference, proxy), "-o", folder / "a", code=FAILED)
    assert nothing_left(folder)


@pytest.mark.parametrize("connections", [1, 4])
def test_a_wrong_byte_is_noticed_and_nothing_is_left(dvcr, registry, cutting_proxy, reference, folder, connections):
    proxy = cutting_proxy(registry.host, change=(MARK, CHANGED))
    error = dvcr.refuses("pull", "--connections", connections, at(reference, proxy), "-o", folder / "a")
    assert proxy.was_changed
    assert "sha256:" in error
    assert nothing_left(folder)


def test_a_wrong_manifest_is_noticed(dvcr, registry, cutting_proxy, images, folder):
    reference = f"{registry.host}/disks/mark:v1"
    digest = dvcr.imports(images.image("qcow2"), reference, "--annotation", f"mark={MARK.decode()}")["digest"]
    proxy = cutting_proxy(registry.host, change=(MARK, CHANGED))
    named = f"{proxy.host}/disks/mark@{digest}"
    assert "sha256:" in dvcr.refuses("pull", named, "-o", folder / "a")
    dvcr.refuses("inspect", named)
    assert nothing_left(folder)


def test_a_wrong_config_is_noticed(dvcr, registry, cutting_proxy, images):
    reference = f"{registry.host}/disks/mark:v1"
    dvcr.imports(images.image("qcow2"), reference, "--label", f"mark={MARK.decode()}")
    proxy = cutting_proxy(registry.host, change=(MARK, CHANGED))
    assert "sha256:" in dvcr.refuses("inspect", at(reference, proxy))


def test_a_pull_that_was_killed_leaves_no_file_under_the_name(dvcr, registry, cutting_proxy, reference, disk, folder):
    """And one that follows is not disturbed by what it left."""
    target, proxy = folder / "a", cutting_proxy(registry.host, hold=5 * MIB)
    process = dvcr.start("pull", at(reference, proxy), "-o", target)
    assert proxy.held.wait(60)
    process.kill()
    process.communicate()
    assert not target.exists()
    dvcr.pulls(reference, target)
    assert target.read_bytes() == disk.read_bytes()
    assert [path.name for path in folder.iterdir()] == ["a"]


# Where it goes.


def test_standard_output_has_the_disk_and_nothing_else(dvcr, reference, disk):
    done = dvcr.run("pull", reference, "-o", "-")
    assert done.out == disk.read_bytes()
    done = dvcr.run("pull", "--output", "json", "--progress", "none", reference, "-o", "-")
    assert done.out == disk.read_bytes()
    assert json.loads(done.errors)["size"] == len(done.out)


def test_a_wrong_byte_on_the_way_to_standard_output_is_an_error(dvcr, registry, cutting_proxy, reference):
    proxy = cutting_proxy(registry.host, change=(MARK, CHANGED))
    assert "sha256:" in dvcr.refuses("pull", at(reference, proxy), "-o", "-")


def test_a_reader_that_goes_away_is_no_panic(dvcr, reference):
    process = dvcr.start("pull", reference, "-o", "-")
    process.stdout.read(1000)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(60) != DONE
    assert "panicked" not in errors


def test_a_block_device_is_written_and_its_zeros_are_zeros(dvcr, reference, disk, tmp_path):
    """The device is full of what was there before."""
    backing = tmp_path / "device"
    backing.write_bytes(b"\xa5" * (40 * MIB))
    with LoopDevice(backing) as device:
        result = dvcr.pulls(reference, device)
        assert result["path"] == device
    written, expected = backing.read_bytes(), disk.read_bytes()
    assert written[: len(expected)] == expected
    assert written[-MIB:] == b"\xa5" * MIB


def test_a_block_device_that_is_too_small_is_not_begun(dvcr, reference, tmp_path):
    backing = tmp_path / "device"
    backing.write_bytes(b"\xa5" * (16 * MIB))
    with LoopDevice(backing) as device:
        error = dvcr.run("pull", reference, "-o", device, code=None)
        assert error.code in (FAILED, REFUSED)
        assert device in error.error()
    assert backing.read_bytes() == b"\xa5" * (16 * MIB)


@pytest.mark.parametrize("arguments", [[], ["--force"]])
def test_a_named_pipe_is_written_as_standard_output_is(dvcr, reference, disk, tmp_path, arguments):
    """As /dev/stdout and /dev/null are; it is never replaced by a file."""
    pipe, read = tmp_path / "pipe", tmp_path / "read"
    os.mkfifo(pipe)
    with read.open("wb") as out, subprocess.Popen(["cat", pipe], stdout=out) as reader:
        done = finished(["pull"], dvcr.start("pull", *arguments, reference, "-o", pipe), code=None)
        if done.code != DONE or not pipe.is_fifo():
            # Nobody has opened it, and nobody will.
            reader.kill()
    assert pipe.is_fifo()
    assert done.code == DONE, done
    assert read.read_bytes() == disk.read_bytes()


# Formats.


@pytest.mark.parametrize("target", ["raw", "qcow2"])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk-stream", "vdi", "vhd", "vhd-fixed", "vhdx"])
def test_a_disk_is_converted(dvcr, registry, images, folder, name, target):
    reference = f"{registry.host}/disks/convert:v1"
    dvcr.imports(images.image(name), reference)
    result = dvcr.pulls(reference, folder / "a", "--format", target)
    same_disk(images.image(name), KINDS[name].driver, folder / "a", target)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert result["format"] == target or name == target
    if name == target:
        assert (folder / "a").read_bytes() == images.image(name).read_bytes()


def test_a_converted_disk_has_the_suffix_of_its_format(dvcr, registry, images, folder):
    reference = f"{registry.host}/disks/convert:v1"
    dvcr.imports(images.image("vdi"), reference)
    dvcr.run("pull", "--format", "qcow2", reference, cwd=folder)
    assert [path.name for path in folder.iterdir()] == ["disk.qcow2"]


def test_converting_needs_qemu_img_and_says_so(dvcr, registry, images, folder):
    reference = f"{registry.host}/disks/convert:v1"
    dvcr.imports(images.image("vdi"), reference)
    without = {"PATH": str(folder)}
    error = dvcr.refuses("pull", "--format", "raw", reference, "-o", folder / "a", code=FAILED, environment=without)
    assert "qemu-img" in error, error
    assert nothing_left(folder)
    # What needs no conversion needs no qemu-img.
    dvcr.imports(images.image("qcow2"), reference)
    dvcr.pulls(reference, folder / "a", "--format", "qcow2", environment=without)


def test_a_format_that_is_none_is_asked_wrongly(dvcr, reference, folder):
    dvcr.run("pull", "--format", "vdi", reference, "-o", folder / "a", code=ASKED_WRONGLY)


# Progress.


def progress_of(dvcr, proxy, *arguments):
    """What a command says while it waits, and then until its end."""
    process = dvcr.start(*arguments)
    said = process.stderr.readline()
    proxy.go.set()
    return said.decode() + finished(arguments, process).errors


def test_progress_for_programs_is_a_line_of_json_each(dvcr, registry, cutting_proxy, reference, folder):
    proxy = cutting_proxy(registry.host, hold=5 * MIB)
    said = progress_of(dvcr, proxy, "pull", "--progress", "json", at(reference, proxy), "-o", folder / "a")
    for line in map(json.loads, said.splitlines()):
        assert set(line) == {"phase", "done", "total", "rate", "seconds_left"}, line
        assert isinstance(line["phase"], str) and line["done"] >= 0
        assert line["total"] is None or line["done"] <= line["total"], line


def test_progress_of_an_import_is_a_line_of_json_each(dvcr, registry, web, disk):
    url, reference = web.add("/disk", disk.read_bytes(), hold=5 * MIB), f"{registry.host}/disks/a:v1"
    said = progress_of(dvcr, web.resources["/disk"], "import", "--progress", "json", url, reference)
    for line in map(json.loads, said.splitlines()):
        assert set(line) == {"phase", "done", "total", "rate", "seconds_left"}, line
        assert line["total"] is None or line["done"] <= line["total"], line


def test_progress_for_logs_is_plain_text(dvcr, registry, cutting_proxy, reference, folder):
    """What is no terminal is a log."""
    proxy = cutting_proxy(registry.host, hold=5 * MIB)
    said = progress_of(dvcr, proxy, "pull", at(reference, proxy), "-o", folder / "a")
    assert said
    assert "\x1b" not in said and "\r" not in said


def test_progress_for_people_is_a_bar_on_a_terminal(dvcr, reference, folder):
    done = subprocess.run(
        ["script", "-qec", f"{BINARY} pull {reference} -o {folder}/a", "/dev/null"],
        capture_output=True, env={**dvcr.environment, "TERM": "xterm"}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == DONE, done
    assert b"\r" in done.stdout


def test_no_progress_is_silent(dvcr, reference, folder):
    assert dvcr.run("pull", "--progress", "none", reference, "-o", folder / "a").errors == ""


# Images that others made.


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_a_disk_in_any_layer_is_pulled(dvcr, registry, disk, folder, docker, compression):
    layers = [tar(("etc/motd", b"hello")), tar(("./disk/noble.img", disk.read_bytes()))]
    push_disk(registry.host, "disks/other", "v1", layers, compression, docker)
    result = dvcr.pulls(f"{registry.host}/disks/other:v1", folder / "a")
    assert (folder / "a").read_bytes() == disk.read_bytes()
    assert result["file"] == "disk/noble.img"
    dvcr.run("pull", f"{registry.host}/disks/other:v1", cwd=folder)
    assert (folder / "noble.img").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_layer_is_pulled_over_connections_that_are_cut(
    dvcr, registry, cutting_proxy, disk, folder, compression
):
    push_disk(registry.host, "disks/other", "v1", [tar(("disk/a.img", disk.read_bytes()))], compression)
    proxy = cutting_proxy(registry.host, cut=MIB)
    dvcr.pulls(f"{proxy.host}/disks/other:v1", folder / "a")
    assert (folder / "a").read_bytes() == disk.read_bytes()
    assert proxy.was_cut


def test_a_name_in_an_image_cannot_leave_the_folder(dvcr, registry, disk, folder):
    for number, name in enumerate(["disk/../../escaped", "../disk/escaped", "disk/sub/escaped"]):
        push_disk(registry.host, "disks/evil", f"v{number}", [tar((name, disk.read_bytes()))])
        dvcr.run("pull", f"{registry.host}/disks/evil:v{number}", code=None, cwd=folder)
    assert not list(folder.parent.glob("escaped")) and not list(folder.parent.parent.glob("escaped"))


# With an older version at hand.


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """Two versions of a disk: 200 KiB of 24 MiB are other bytes, and 100 more blocks were put in, so that much has moved."""
    folder = tmp_path_factory.mktemp("versions")
    old, new, data = folder / "old.raw", folder / "new.raw", os.urandom(24 * MIB)
    old.write_bytes(data + bytes(8 * MIB))
    changed = data[: 5 * MIB] + os.urandom(200 << 10) + data[5 * MIB + (200 << 10) :]
    new.write_bytes(changed[: 10 * MIB] + os.urandom(100 << 12) + changed[10 * MIB :] + bytes(8 * MIB))
    return old, new


def test_of_a_newer_version_only_what_is_new_is_fetched(dvcr, registry, versions, folder):
    old, new = versions
    reference = f"{registry.host}/disks/versions:v2"
    dvcr.imports(new, reference)
    target = folder / "new.raw"
    result = dvcr.pulls(reference, target, "--base", old)
    assert target.read_bytes() == new.read_bytes()
    assert 600 << 10 < result["fetched"] < 2 * MIB, result
    assert [path.name for path in folder.iterdir()] == ["new.raw"]


def test_a_file_that_is_replaced_is_the_base(dvcr, registry, versions, folder):
    old, new = versions
    reference = f"{registry.host}/disks/versions:v2"
    dvcr.imports(new, reference)
    target = folder / "disk.raw"
    target.write_bytes(old.read_bytes())
    assert dvcr.pulls(reference, target, "--force")["fetched"] < 2 * MIB
    assert target.read_bytes() == new.read_bytes()
    # And where nothing has changed, next to nothing is fetched.
    assert dvcr.pulls(reference, target, "--force")["fetched"] < 100_000
    assert target.read_bytes() == new.read_bytes()


def test_the_base_may_be_of_another_format(dvcr, registry, versions, folder, tmp_path):
    old, new = versions
    qcow2 = tmp_path / "new.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", new, qcow2)
    reference = f"{registry.host}/disks/versions:qcow2"
    dvcr.imports(qcow2, reference)
    assert dvcr.pulls(reference, folder / "a.qcow2", "--base", old)["fetched"] < 4 * MIB
    assert (folder / "a.qcow2").read_bytes() == qcow2.read_bytes()


@pytest.mark.parametrize("content", [b"", b"x", b"nothing of it" * 100_000], ids=["empty", "one byte", "other bytes"])
def test_a_base_that_has_nothing_of_the_disk_does_no_harm(dvcr, reference, disk, folder, tmp_path, content):
    base = tmp_path / "base"
    base.write_bytes(content)
    result = dvcr.pulls(reference, folder / "a.raw", "--base", base)
    assert (folder / "a.raw").read_bytes() == disk.read_bytes()
    # Zeros are in no need of a base.
    assert 4 * MIB < result["fetched"] < 5 * MIB


def test_a_base_that_is_not_there_is_asked_wrongly(dvcr, reference, folder):
    failed = dvcr.run("pull", reference, "-o", folder / "a.raw", "--base", folder / "none", code=ASKED_WRONGLY)
    assert "none" in failed.error()
    assert nothing_left(folder)


def test_a_layer_that_is_stored_whole_or_compressed_is_fetched_whole(dvcr, start, registry, disk, folder):
    server = start("filesystem", DVCR_CHUNKING="false")
    for host, compression in [(server.host, "none"), (registry.host, "gzip")]:
        push_disk(host, "disks/whole", "v1", [tar(("disk/disk.raw", disk.read_bytes()))], compression)
        result = dvcr.pulls(f"{host}/disks/whole:v1", folder / "a.raw", "--base", disk, "--force")
        assert (folder / "a.raw").read_bytes() == disk.read_bytes()
        assert result["fetched"] > 4 * MIB

