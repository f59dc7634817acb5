"""The commands against registries that are not DVCR: Debian's docker-registry, and one whose blobs are elsewhere."""

import contextlib
import json
import os
import socket
import subprocess
import time

import pytest

from auth_proxy import PASSWORD, USER
from command import FAILED
from dvcr import free_port
from flaky_http import Web
from images import MIB
from layers import Image, push_disk, tar
from wire import Client


@pytest.fixture
def other(tmp_path):
    """Debian's docker-registry: it gives absolute locations with a state in their query."""
    port, folder = free_port(), tmp_path / "docker-registry"
    folder.mkdir()
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("compression", ["none", "xz", "zstd-unsized"])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vhd-fixed"])
def test_a_disk_goes_there_and_back(dvcr, other, images, tmp_path, name, compression):
    reference = f"{other}/disks/noble:v1"
    packed = images.compressed(name, compression)
    result = dvcr.imports(packed, reference)
    assert Image(other, "disks/noble").file()[1] == images.image(name).read_bytes()
    assert dvcr.imports(packed, reference)["uploaded"] == 0
    assert dvcr.imports("-", f"{other}/disks/stdin:v1", data=packed.read_bytes())["layer"] == result["layer"]
    seen = dvcr.inspects(reference)
    assert (seen["digest"], seen["format"]) == (result["digest"], result["format"])
    dvcr.pulls(reference, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == images.image(name).read_bytes()


def test_images_are_listed_and_removed(dvcr, other, images):
    for tag in ["v1", "v2"]:
        digest = dvcr.imports(images.image("iso" if tag == "v1" else "vdi"), f"{other}/disks/noble:{tag}")["digest"]
    assert [row["tag"] for row in dvcr.run("ls", "--output", "json", f"{other}/disks/noble").json()] == ["v1", "v2"]
    assert "disks/noble" in dvcr.run("ls", other).out.decode()
    # This registry knows no removal of a tag alone.
    dvcr.run("rm", f"{other}/disks/noble@{digest}")
    assert Client(other).get(f"/v2/disks/noble/manifests/{digest}").status == 404


def test_it_does_not_count_what_it_holds(dvcr, other):
    assert f"{other} is no registry of DVCR" in dvcr.run("stats", other, code=FAILED).error()


def test_without_knowing_its_chunks_all_of_a_disk_is_fetched(dvcr, other, images, tmp_path):
    dvcr.imports(images.image("raw"), f"{other}/disks/a:v1")
    result = dvcr.pulls(f"{other}/disks/a:v1", tmp_path / "a", "--base", images.image("raw"))
    assert (tmp_path / "a").read_bytes() == images.image("raw").read_bytes()
    assert "fetched" not in result


def test_images_are_copied_there_and_back(dvcr, registry, other, images):
    digest = dvcr.imports(images.image("qcow2"), f"{registry.host}/disks/noble:v1")["digest"]
    dvcr.run("copy", f"{registry.host}/disks/noble:v1", f"{other}/a:v1")
    within = dvcr.run("copy", "--output", "json", f"{other}/a:v1", f"{other}/b:v1").json()
    assert within["blobs"] == {"copied": 0, "mounted": 2, "present": 0}
    dvcr.run("copy", f"{other}/b:v1", f"{registry.host}/back:v1")
    assert Image(registry.host, "back").digest == digest


@pytest.mark.parametrize("scheme", ["open", "basic", "bearer"])
def test_blobs_may_be_in_a_store_elsewhere(dvcr, registry, start, auth_proxy, opened, images, tmp_path, scheme):
    """The registry redirects to a signed address, whose server refuses whoever says who he is."""
    data = os.urandom(MIB) + images.image("vdi").read_bytes()
    push_disk(registry.host, "disks/noble", "v1", [tar(("disk/disk.img", data))], "gzip")
    proxy, store = auth_proxy(registry.host, scheme), opened(Web())
    proxy.store = store
    reference, auth = f"{proxy.host}/disks/noble:v1", tmp_path / "auth.json"
    auth.write_text(json.dumps(proxy.entry()))
    dvcr.pulls(reference, tmp_path / "a", "--auth-file", auth)
    assert (tmp_path / "a").read_bytes() == data
    assert dvcr.inspects(reference, "--auth-file", auth)["size"] == len(data)
    target = start("filesystem")
    dvcr.imports(f"docker://{reference}", f"{target.host}/a:v1", "--source-auth-file", auth)
    dvcr.run("copy", "--auth-file", auth, reference, f"{target.host}/b:v1")
    assert Image(target.host, "a").file()[1] == data
    seen = store.requests(method=None)
    assert seen and not any("authorization" in request.headers for request in seen)
    assert not any(word in json.dumps([request.headers for request in seen]) for word in [USER, PASSWORD])
