"""Imports that are killed, registries that are killed, and what is sent when it all begins again."""

import os
import signal
import socket
import threading

import pytest

from command import FAILED, finished, kept, requests
from images import MIB, compress
from layers import Image
from wire import Client, eventually

SIZE, HELD = 96 * MIB, 72 * MIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Noise, so that its compressed forms are as long."""
    path = tmp_path_factory.mktemp("resume") / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    return path


def received(server):
    """Bytes that a registry has on its disk, finished or not."""
    return sum(size for file, size in kept(server).items() if file.startswith("data/"))


def begun(dvcr, arguments, web, registry, path, more=0):
    """An import that has sent much and now waits for its source."""
    process = dvcr.start("import", "--output", "json", *arguments)
    try:
        held = web.resources[path].held
        eventually(lambda: held.is_set() or process.poll() is not None, seconds=60)
        eventually(lambda: received(registry) > 8 * MIB or process.poll() is not None, seconds=60)
        assert process.poll() is None, process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def killed(process, registry, end=signal.SIGKILL):
    """Ends an import, and waits until the registry has noticed it."""
    process.send_signal(end)
    process.communicate(timeout=60)
    assert process.returncode != 0
    eventually(lambda: requests(registry, "PATCH"))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_import_that_was_killed_goes_on_with_its_upload(dvcr, registry, web, disk, end):
    data = disk.read_bytes()
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    process = begun(dvcr, [url, reference], web, registry, "/disk")
    killed(process, registry, end)
    web.resources["/disk"].go.set()

    # What the registry had is not sent again.
    result = dvcr.imports(url, reference)
    assert 0 < result["uploaded"] < result["layer"]["size"] - 4 * MIB, result
    assert Image(registry.host, "disks/a").file()[1] == data
    assert not [file for file in kept(registry) if file.startswith("uploads/")]
    assert received(registry) < SIZE + 16 * MIB
    state = dvcr.home / ".local/state/dvcr/uploads"
    assert not state.exists() or list(state.iterdir()) == []


def test_an_import_that_begins_again_at_once_leaves_nothing_of_the_first(dvcr, registry, web, disk):
    """Before the registry has noticed that the first is gone: it may have to be sent again, but not be kept twice."""
    url, reference = web.add("/disk", disk.read_bytes(), hold=HELD), f"{registry.host}/disks/a:v1"
    process = begun(dvcr, [url, reference], web, registry, "/disk")
    process.kill()
    process.communicate()
    web.resources["/disk"].go.set()
    dvcr.imports(url, reference)
    assert Image(registry.host, "disks/a").file()[1] == disk.read_bytes()
    assert not [file for file in kept(registry) if file.startswith("uploads/")]
    assert received(registry) < SIZE + 16 * MIB


def test_an_upload_that_lacks_only_its_end_is_ended(dvcr, registry, web, disk):
    """The registry has every byte, and the import was killed before it was told so."""
    data = disk.read_bytes()
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    process = begun(dvcr, ["--retries", "1", url, reference], web, registry, "/disk")
    away(registry, web, "stop")
    finished(["import"], process, FAILED)
    registry.start()
    result = dvcr.imports(url, reference)
    assert result["uploaded"] < MIB, result
    assert Image(registry.host, "disks/a").file()[1] == data


@pytest.mark.parametrize("compression", ["gzip", "zstd", "zstd-unsized"])
def test_an_import_of_compressed_bytes_goes_on_with_its_upload(dvcr, registry, start, web, disk, compression):
    packed = compress(disk, compression).read_bytes()
    url, reference = web.add("/disk", packed), f"{registry.host}/disks/a:v1"
    # What is read twice is sent at the second reading.
    passes = dvcr.imports(url, f"{start('filesystem').host}/disks/a:v1")["passes"]
    web.add("/disk", packed, hold=HELD, passing=passes - 1)
    killed(begun(dvcr, [url, reference], web, registry, "/disk"), registry)
    web.resources["/disk"].go.set()
    result = dvcr.imports(url, reference)
    assert 0 < result["uploaded"] < result["layer"]["size"] - 4 * MIB, result
    assert Image(registry.host, "disks/a").file()[1] == disk.read_bytes()


def test_an_import_into_a_bucket_goes_on_with_its_upload(dvcr, start, web, disk):
    server, data = start("s3"), disk.read_bytes()
    url, reference = web.add("/disk", data, hold=HELD), f"{server.host}/disks/a:v1"
    process = dvcr.start("import", "--output", "json", url, reference)
    eventually(web.resources["/disk"].held.is_set, seconds=60)
    killed(process, server)
    web.resources["/disk"].go.set()
    result = dvcr.imports(url, reference)
    assert 0 < result["uploaded"] < result["layer"]["size"] - 4 * MIB, result
    assert Image(server.host, "disks/a").file()[1] == data


def test_where_uploads_are_remembered_can_be_said(dvcr, registry, web, disk, tmp_path):
    data, state = disk.read_bytes(), {"XDG_STATE_HOME": str(tmp_path / "state")}
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    dvcr.environment.update(state)
    killed(begun(dvcr, [url, reference], web, registry, "/disk"), registry)
    web.resources["/disk"].go.set()
    assert list((tmp_path / "state/dvcr/uploads").iterdir())
    assert not (dvcr.home / ".local").exists()
    result = dvcr.imports(url, reference)
    assert result["uploaded"] < result["layer"]["size"]


def test_a_source_that_changed_since_the_import_was_killed_is_sent_anew(dvcr, registry, web, disk):
    data = disk.read_bytes()
    new = data[: 4 * MIB] + os.urandom(MIB) + data[5 * MIB :]
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    killed(begun(dvcr, [url, reference], web, registry, "/disk"), registry)
    web.resources["/disk"].go.set()
    web.add("/disk", new, etag='"v2"', modified="Sat, 21 Nov 2026 11:00:00 GMT")
    dvcr.imports(url, reference)
    assert Image(registry.host, "disks/a").file()[1] == new


def test_a_source_that_changed_and_does_not_say_so_is_noticed(dvcr, registry, web, disk):
    """No tag, no date, the same size: only the bytes differ."""
    data = disk.read_bytes()
    new = data[: 4 * MIB] + os.urandom(MIB) + data[5 * MIB :]
    url, reference = web.add("/disk", data, hold=HELD, etag=None, modified=None), f"{registry.host}/disks/a:v1"
    killed(begun(dvcr, [url, reference], web, registry, "/disk"), registry)
    web.resources["/disk"].go.set()
    web.add("/disk", new, etag=None, modified=None)
    dvcr.imports(url, reference)
    assert Image(registry.host, "disks/a").file()[1] == new


def test_a_registry_that_forgot_the_upload_gets_it_anew(dvcr, registry, web, disk):
    data = disk.read_bytes()
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    killed(begun(dvcr, [url, reference], web, registry, "/disk"), registry)
    web.resources["/disk"].go.set()
    uploads = [file for file in kept(registry) if file.startswith("uploads/") and "!" not in file]
    assert uploads
    for upload in uploads:
        session = upload.removeprefix("uploads/")
        assert Client(registry.host).delete(f"/v2/disks/a/blobs/uploads/{session}").status == 204
    result = dvcr.imports(url, reference)
    assert result["uploaded"] == result["layer"]["size"]
    assert Image(registry.host, "disks/a").file()[1] == data


def test_damaged_memories_of_uploads_do_no_harm(dvcr, registry, web, disk):
    data = disk.read_bytes()
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    killed(begun(dvcr, [url, reference], web, registry, "/disk"), registry)
    web.resources["/disk"].go.set()
    for file in (dvcr.home / ".local/state/dvcr/uploads").rglob("*"):
        if file.is_file():
            file.write_bytes(os.urandom(100))
    dvcr.imports(url, reference)
    assert Image(registry.host, "disks/a").file()[1] == data


def away(registry, web, end):
    """Ends a registry while an import goes on, and gives a moment at which the import has missed it."""
    if end == "kill":
        registry.kill()
        web.resources["/disk"].go.set()
    else:
        # It waits for requests in flight, and those for the source.
        stopping = threading.Thread(target=registry.stop)
        stopping.start()
        web.resources["/disk"].go.set()
        stopping.join()


def missed(registry):
    """Waits until somebody has come to a registry that is away."""
    with socket.create_server(("127.0.0.1", registry.port)) as listener:
        listener.settimeout(60)
        listener.accept()[0].close()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_import_lives_through_a_restart_of_the_registry(dvcr, registry, web, disk, end):
    data = disk.read_bytes()
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    process = begun(dvcr, [url, reference], web, registry, "/disk")
    away(registry, web, end)
    missed(registry)
    registry.start()
    result = finished(["import"], process).json()
    assert Image(registry.host, "disks/a").digest == result["digest"]
    assert Image(registry.host, "disks/a").file()[1] == data


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_import_that_a_registry_left_alone_goes_on_when_it_is_asked_again(dvcr, registry, web, disk, end):
    data = disk.read_bytes()
    url, reference = web.add("/disk", data, hold=HELD), f"{registry.host}/disks/a:v1"
    process = begun(dvcr, ["--retries", "1", url, reference], web, registry, "/disk")
    away(registry, web, end)
    finished(["import"], process, FAILED)
    registry.start()
    result = dvcr.imports(url, reference)
    # A crash costs what was sent last; see test_persistence.py.
    assert result["uploaded"] < result["layer"]["size"] or end == "kill", result
    assert Image(registry.host, "disks/a").file()[1] == data


def test_a_connection_to_the_registry_that_is_cut_is_made_again(dvcr, registry, cutting_proxy, disk):
    """Cut in the answers: the client cannot know how much arrived, and asks."""
    proxy = cutting_proxy(registry.host, cut=10, cuts=4)
    dvcr.imports(disk, f"{proxy.host}/disks/a:v1")
    assert proxy.was_cut == 4
    assert Image(registry.host, "disks/a").file()[1] == disk.read_bytes()
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


def test_two_imports_of_one_disk_at_once_do_not_disturb_each_other(dvcr, registry, disk):
    references = [f"{registry.host}/disks/a:v{number}" for number in range(3)]
    running = [dvcr.start("import", "--output", "json", disk, reference) for reference in references]
    results = [finished(["import"], process).json() for process in running]
    assert len({result["digest"] for result in results}) == 1
    assert Image(registry.host, "disks/a", "v2").file()[1] == disk.read_bytes()
    assert not [file for file in kept(registry) if file.startswith("uploads/")]
    assert requests(registry, "PUT", "/v2/disks/a/manifests/")
