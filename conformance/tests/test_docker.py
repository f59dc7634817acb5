"""A real dockerd: build, push, remove, pull, and the disk is the same."""

import pytest

from disk import MIB, build_disk_image, sha256_of
from wire import Client

pytestmark = pytest.mark.slow


def pulled_disk(docker, reference, folder):
    """The disk inside an image, copied out of a container that never runs."""
    container = docker.run("create", reference, "/none").stdout.strip()
    target = folder / "pulled.img"
    docker.run("cp", f"{container}:/disk/disk.img", target)
    docker.run("rm", container)
    return target


@pytest.mark.parametrize(("backend", "mib"), [("filesystem", 2048), ("s3", 300)], indirect=["backend"])
def test_a_pushed_disk_image_is_pulled_back_byte_for_byte(docker, server, tmp_path, mib):
    reference = f"{server.host}/disks/noble:2026-11-21"
    sha256 = build_disk_image(docker, tmp_path / "build", reference, mib)
    docker.run("push", reference)
    assert server.peak_memory() < 128, f"{server.peak_memory()} MiB"

    docker.run("image", "rm", reference)
    docker.run("pull", reference)
    disk = pulled_disk(docker, reference, tmp_path)
    assert disk.stat().st_size == mib * MIB
    assert sha256_of(disk) == sha256
    docker.run("image", "rm", reference)
    print(f"{server.storage[0]}: {mib} MiB through docker, peak memory {server.peak_memory():.0f} MiB")


def test_pushing_an_image_to_a_second_repository_mounts_its_layers(docker, server, tmp_path):
    first, second = f"{server.host}/team-a/disk:v1", f"{server.host}/team-b/disk:v1"
    build_disk_image(docker, tmp_path / "build", first, 8)
    docker.run("push", first)
    docker.run("tag", first, second)
    pushed = docker.run("push", second).stdout
    assert "Mounted from team-a/disk" in pushed, pushed


def test_pushing_again_sends_nothing(docker, server, tmp_path):
    reference = f"{server.host}/disks/again:v1"
    build_disk_image(docker, tmp_path / "build", reference, 8)
    docker.run("push", reference)
    pushed = docker.run("push", reference).stdout
    assert "Layer already exists" in pushed, pushed


def test_what_docker_pushed_is_listed_and_kept_as_docker_wrote_it(docker, server, tmp_path):
    reference = f"{server.host}/disks/listed:v1"
    build_disk_image(docker, tmp_path / "build", reference, 1)
    pushed = docker.run("push", reference).stdout
    client = Client(server.host)
    assert client.get("/v2/disks/listed/tags/list").json() == {"name": "disks/listed", "tags": ["v1"]}
    manifest = client.get("/v2/disks/listed/manifests/v1")
    assert manifest.headers["Content-Type"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest.headers["Docker-Content-Digest"] in pushed
