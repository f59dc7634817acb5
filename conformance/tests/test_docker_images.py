"""Disks that docker built and pushed, and the commands that see, fetch and move them."""

import pytest

from images import MIB, virtual_size
from layers import Image

pytestmark = pytest.mark.slow


@pytest.fixture
def pushed(docker, registry, images, tmp_path):
    """A qcow2 in an image, as `docker build` and `docker push` make one: its layer is gzip."""
    reference, folder = f"{registry.host}/disks/built:v1", tmp_path / "build"
    folder.mkdir()
    (folder / "noble.qcow2").write_bytes(images.image("qcow2").read_bytes())
    (folder / "Dockerfile").write_text(
        "FROM scratch\nCOPY --chown=107:107 noble.qcow2 /disk/noble.qcow2\nLABEL os=ubuntu\n"
        "ENV INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=ubuntu\n"
    )
    docker.run("build", "--quiet", "--tag", reference, folder)
    docker.run("push", reference)
    docker.run("image", "rm", reference)
    return reference


def test_what_docker_built_is_described(dvcr, pushed, images):
    seen = dvcr.inspects(pushed)
    size = images.image("qcow2").stat().st_size
    assert (seen["format"], seen["virtual_size"], seen["size"]) == ("qcow2", 8 * MIB, size)
    assert seen["virtual_size"] == virtual_size("qcow2", images.image("qcow2"))
    assert seen["file"] == "disk/noble.qcow2"
    assert seen["labels"] == {"os": "ubuntu"}
    assert "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=ubuntu" in seen["env"]
    assert seen["media_type"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert seen["layer"]["media_type"].endswith("gzip")
    (row,) = dvcr.run("ls", "--output", "json", pushed.rsplit(":", 1)[0]).json()
    assert (row["tag"], row["digest"]) == ("v1", seen["digest"])


def test_what_docker_built_is_pulled(dvcr, pushed, images, tmp_path):
    dvcr.pulls(pushed, tmp_path / "pulled")
    assert (tmp_path / "pulled").read_bytes() == images.image("qcow2").read_bytes()


def test_what_docker_built_is_imported_as_if_from_a_file(dvcr, registry, start, pushed, images):
    other = start("filesystem")
    result = dvcr.imports(f"docker://{pushed}", f"{other.host}/disks/a:v1")
    assert Image(other.host, "disks/a").file()[1] == images.image("qcow2").read_bytes()
    assert dvcr.imports(images.image("qcow2"), f"{other.host}/disks/b:v1")["layer"] == result["layer"]


def test_what_docker_built_is_copied_and_docker_pulls_the_copy(dvcr, docker, start, pushed, images, tmp_path):
    reference = f"{start('filesystem').host}/disks/copy:v1"
    dvcr.run("copy", pushed, reference)
    docker.run("pull", reference)
    container = docker.run("create", reference, "/none").stdout.strip()
    docker.run("cp", f"{container}:/disk/noble.qcow2", tmp_path / "disk")
    docker.run("rm", container)
    docker.run("image", "rm", reference)
    assert (tmp_path / "disk").read_bytes() == images.image("qcow2").read_bytes()


@pytest.mark.parametrize("compression", ["none", "xz"])
def test_an_imported_disk_is_a_base_that_docker_builds_on(dvcr, docker, registry, images, tmp_path, compression):
    """What an operator does who wants a label more."""
    base, reference = f"{registry.host}/disks/base:v1", f"{registry.host}/disks/derived:v1"
    dvcr.imports(images.compressed("vmdk", compression), base, "--label", "os=ubuntu")
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nLABEL team=storage\n")
    docker.run("build", "--quiet", "--tag", reference, "-f", tmp_path / "Dockerfile", tmp_path / "home")
    docker.run("push", reference)
    docker.run("image", "rm", reference, base)
    seen = dvcr.inspects(reference)
    assert seen["labels"]["team"] == "storage" and seen["labels"]["os"] == "ubuntu"
    assert seen["format"] == "vmdk"
    dvcr.pulls(reference, tmp_path / "pulled")
    assert (tmp_path / "pulled").read_bytes() == images.image("vmdk").read_bytes()
